"""Other systems to run the wheels on: an old one, and one for another machine.

A system is a root directory that Debian's packages were unpacked into, and `chroot`. The wheel is
installed by the pip of this machine, which is told the platform and chooses by the wheel's tag.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.rays import REPOSITORY

Root = Callable[[str, str], Path]
PROBE = Path(__file__).with_name("probe.py")
# What asks the native parts for everything that they do, without Ray.
NATIVE_TESTS = (
    "tests/unit/spill/test_native_spill.py",
    "tests/unit/refs/test_native_reference_counter.py",
)
# An emulator takes several times as long as a processor.
_LIMIT_S = 1500.0


def run(command: list[str], **environment: str) -> str:
    """Run a command that has to succeed; return what it prints."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pytest_arguments(directory: str) -> list[str]:
    """Return the arguments of a pytest that knows nothing of this repository's settings."""
    quiet = ["-q", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull]
    return [*quiet, "--rootdir", directory, *(f"{directory}/{name}" for name in NATIVE_TESTS)]


# In a mount namespace of its own, so that nothing stays mounted: the engine looks at other processes, and
# programs write to /dev/null.
_ENTER = """
mkdir -p "$1/proc" "$1/dev" && mount --bind /proc "$1/proc" && mount --bind /dev "$1/dev" || exit 1
root=$1; shift; exec /usr/sbin/chroot "$root" "$@"
"""


class System:
    """A system with a Python 3.11.

    Args:
        root: its root directory.
        machine: "x86_64" or "aarch64".
        interpreter: the command that starts its Python, seen from inside.
    """

    def __init__(self, root: Path, machine: str, interpreter: list[str]) -> None:
        self._root = root
        self._machine = machine
        self._interpreter = interpreter
        for name in ("spill", "refs"):
            part = f"tests/unit/{name}"
            shutil.copytree(REPOSITORY / part, root / part, dirs_exist_ok=True)
        shutil.copy(PROBE, root / "tests")

    def install(self, wheel: Path) -> None:
        """Install a wheel, and pytest, as pip would do it on that system."""
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        pip += ["--target", str(self._root / "site"), "--upgrade", "--only-binary=:all:"]
        pip += ["--platform", f"manylinux2014_{self._machine}", "--python-version", "3.11"]
        run([*pip, str(wheel), "pytest"])

    def python(self, *arguments: str) -> str:
        """Run its Python, which has to succeed; return what it prints."""
        environment = {"PYTHONPATH": "/site", "PATH": "/usr/bin:/bin", "HOME": "/tmp"}
        return run(
            [
                *("unshare", "--mount", "sh", "-c", _ENTER, "sh"),
                *(str(self._root), *self._interpreter, *arguments),
            ],
            **environment,
            PYTHONDONTWRITEBYTECODE="1",
        )
