"""Worlds for the overlay's tests: small environments with a fake Ray and patches of the test's own.

Import state is what the overlay is about, so each test runs programs in interpreters of their own:
a venv made for it, with a copy of Mantaray's Python files, the real `mantaray.pth` and a `ray` of
three tiny modules.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import textwrap
import venv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mantaray.overlay import fingerprint
from mantaray.overlay.known import KnownRay, releases, write

REPOSITORY = Path(__file__).resolve().parents[3]

ENGINE = '''
"""Stands for a module of Ray that a patch changes."""


class Engine:
    """Runs."""

    def speed(self) -> int:
        """Return how fast it is."""
        return 1

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    @staticmethod
    def fuel() -> str:
        return "coal"


def start() -> str:
    return "stock"


LIMIT = 10
'''

# A patch as a subsystem has one.
DEMO_PATCH = """
from mantaray.overlay import Patch, Target, register

def into_engine(module, installation):
    installation.replace(module, "start", lambda: "patched")
    installation.wrap(module.Engine, "speed", lambda wrapped, self, args, kwargs: 2 * wrapped())

register(Patch(
    name="demo",
    summary="A patch for tests",
    plain_since=None,
    enough_since=None,
    targets=(Target("ray.engine", "Engine.speed"),),
    installers={"ray.engine": into_engine},
))
"""


class World:
    """One environment: its interpreter, its Mantaray, its Ray."""

    def __init__(self, root: Path) -> None:
        venv.create(root, with_pip=False, symlinks=True)
        self.python = root / "bin" / "python"
        # Python 3.10 has no scheme of that name.
        scheme = "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix"
        bases = {"base": str(root), "platbase": str(root)}
        self.site = Path(sysconfig.get_path("purelib", scheme, bases))
        # wrapt, packaging and click come from the environment that runs the tests.
        (self.site / "a-dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        source = REPOSITORY / "python" / "mantaray"
        self.mantaray = self.site / "mantaray"
        self.mantaray.mkdir()
        for name in ("__init__.py", "settings.py", "knobs.py", "helpers.py", "helper_main.py"):
            shutil.copy(source / name, self.mantaray)
        for name in ("overlay", "cli"):
            shutil.copytree(
                source / name, self.mantaray / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(REPOSITORY / "python" / "mantaray.pth", self.site)
        self.know({})
        self.ray("2.60.0")

    def ray(self, version: str, engine: str = ENGINE) -> None:
        """Install a fake Ray of a version, with an `engine` module of this source."""
        ray = self.site / "ray"
        ray.mkdir(exist_ok=True)
        (ray / "__init__.py").write_text("from ray._version import version as __version__\n")
        (ray / "_version.py").write_text(f'commit = "c0ffee"\nversion = "{version}"\n')
        (ray / "engine.py").write_text(engine)
        (ray / "other.py").write_text("VALUE = 'stock'\n")

    def patch(self, source: str, name: str = "demo") -> None:
        """Add a subpackage of mantaray with this source as its module `patch`."""
        package = self.mantaray / name
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        (package / "patch.py").write_text(textwrap.dedent(source))

    def demo_patch(self, reviewed: Mapping[str, str] | None = None, **changes: str) -> None:
        """Add the demo patch, accepted for every known release.

        Args:
            reviewed: the reviewed fingerprint of each target, that of the source above by default.
            changes: what to replace values of the patch's keyword arguments with.
        """
        source = DEMO_PATCH
        for keyword, value in changes.items():
            lines = source.splitlines()
            matching = [line for line in lines if line.strip().startswith(f"{keyword}=")]
            assert len(matching) == 1, keyword
            source = source.replace(matching[0], f"    {keyword}={value},")
        self.patch(source)
        if reviewed is None:
            reviewed = {"ray.engine:Engine.speed": speed_fingerprint()}
        self.know({"demo": reviewed})

    def know(
        self,
        patches: Mapping[str, Mapping[str, str]],
        files: Mapping[str, str] | None = None,
        only: Collection[str] = (),
    ) -> None:
        """Replace what is known of Rays: the real releases, with patches and files of the test's own.

        Args:
            patches: the reviewed fingerprints of each patch, for each release.
            files: the digests of the official files of modules, for each release.
            only: the releases to describe anew; all by default.
        """
        directory = self.mantaray / "overlay" / "rays"
        for release in only or releases(directory):
            write(KnownRay(release, files or {}, patches), directory)

    def run(
        self, program: str, *options: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in an interpreter of its own; it must not hang."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MANTARAY_", "_MANTARAY_", "RAY_", "PYTHON"))
        }
        return subprocess.run(
            [str(self.python), *options, "-c", textwrap.dedent(program)],
            env=clean | environment,
            cwd=self.site.parent,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def ask(self, program: str, *options: str, **environment: str) -> Any:
        """Run a program that must succeed in silence; return the JSON it prints last."""
        result = self.run(program, *options, **environment)
        assert (result.returncode, result.stderr) == (0, "")
        return json.loads(result.stdout.splitlines()[-1])

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the `mantaray` command."""
        program = f"from mantaray.cli.main import main; main({list(arguments)!r}, 'mantaray')"
        return self.run(program, **environment)


# What the fake Ray does without the patch for tests, and with it.
STOCK = {"start": "stock", "speed": 1}
PATCHED = {"start": "patched", "speed": 2}


def behaviour(told: Mapping[str, object]) -> dict[str, object]:
    """Return what a program of `TELL` says about the fake Ray."""
    return {key: told[key] for key in ("start", "speed")}


def speed_fingerprint(engine: str = ENGINE) -> str:
    """Return the fingerprint of Engine.speed in an engine source."""
    found = fingerprint(engine, "Engine.speed")
    assert found is not None
    return found


# What a program prints to tell what it has: the fake Ray's behaviour and the states.
TELL = """
import json
import ray.engine
from mantaray.overlay import status
print(json.dumps({
    "start": ray.engine.start(),
    "speed": ray.engine.Engine().speed(),
    "states": {patch.name: str(patch.state) for patch in status()},
    "why": {patch.name: patch.why for patch in status()},
}))
"""
