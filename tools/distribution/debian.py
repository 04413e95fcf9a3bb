"""Packages of any suite and architecture of Debian, through apt, which checks their signatures.

Nothing is installed: packages are unpacked into a directory. apt keeps its lists there too, apart
from those of this machine.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
_TIMEOUT_S = 900.0


class DebianError(RuntimeError):
    """A package cannot be had; the message says why."""


def available() -> bool:
    """Return whether this machine has what this module needs: a Debian with its archive."""
    tools = all(map(shutil.which, ("apt-get", "dpkg")))
    return tools and Path(_KEYRING).is_file() and _mirror() is not None


class Suite:
    """One suite for one architecture.

    Args:
        name: "bullseye", ...
        architecture: as Debian calls it, "arm64".
        directory: for lists and packages; made if missing.
    """

    def __init__(self, name: str, architecture: str, directory: Path) -> None:
        self._directory = directory.resolve() / f"{name}-{architecture}"
        for part in ("lists/partial", "cache/archives/partial"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        sources = self._directory / "sources.list"
        line = f"deb [arch={architecture} signed-by={_KEYRING}] {_mirror()} {name} main\n"
        sources.write_text(line)
        at = self._directory
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::State": at,
            "Dir::State::status": at / "status",
            "Dir::Cache": at / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
        }
        self._options = [
            word for item in settings.items() for word in ("-o", "{}={}".format(*item))
        ]
        self._updated = False

    def unpack(self, packages: list[str], root: Path, dependencies: bool) -> None:
        """Unpack packages into a directory.

        Args:
            packages: their names.
            root: the directory; made if missing.
            dependencies: whether to unpack all that they depend on too.

        Raises:
            DebianError: apt or dpkg failed.
        """
        if not self._updated:
            self._apt("update")
            self._updated = True
        if dependencies:
            self._apt("install", "--download-only", "--yes", *packages)
            archives = sorted((self._directory / "cache/archives").glob("*.deb"))
        else:
            self._apt("download", *packages)
            archives = sorted(self._directory.glob("*.deb"))
        root.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            _run(["dpkg", "-x", str(archive), str(root)], root)

    def _apt(self, *arguments: str) -> None:
        _run(["apt-get", "-qq", *self._options, *arguments], self._directory)


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        raise DebianError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")


def _mirror() -> str | None:
    """Return the archive of Debian that this machine is configured for, None if it has none."""
    lines = _SOURCES.read_text().splitlines() if _SOURCES.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith("URIs:")]
    return next((each for each in found if "security" not in each), None)
