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
        self._name = name
        self._sources = self._directory / "sources.list"
        self._sources.write_text(
            f"deb [arch={architecture} signed-by={_KEYRING}] {_mirror()} {name} main\n"
        )
        at = self._directory
        settings = {
            "Dir::Etc::sourcelist": self._sources,
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
        self._update()
        if dependencies:
            self._apt("install", "--download-only", "--yes", *packages)
            archives = sorted((self._directory / "cache/archives").glob("*.deb"))
        else:
            self._apt("download", *packages)
            archives = sorted(self._directory.glob("*.deb"))
        for archive in archives:
            extract(archive, root)

    def fetch(self, package: str, version: str) -> Path:
        """Return the file of a package in exactly this version; downloaded if it is not there yet.

        Raises:
            DebianError: apt failed; the suite may have another version by now.
        """
        # apt writes the colon of an epoch like this.
        pattern = f"{package}_{version.replace(':', '%3a')}_*.deb"
        found = list(self._directory.glob(pattern))
        if not found:
            self._update()
            self._apt("download", f"{package}={version}")
            found = list(self._directory.glob(pattern))
        if len(found) != 1:
            raise DebianError(f"apt left {len(found)} files {pattern}")
        return found[0]

    def source(self, package: str) -> Path:
        """Return the archive with the sources of a package, as its authors published them.

        Raises:
            DebianError: apt failed, or the package is Debian's own and has no such archive.
        """
        with self._sources.open("a") as file:
            file.write(f"deb-src [signed-by={_KEYRING}] {_mirror()} {self._name} main\n")
        self._apt("update")
        self._apt("source", "--download-only", "--tar-only", package)
        found = list(self._directory.glob("*.orig.tar.?z*"))
        if len(found) != 1:
            raise DebianError(f"apt left {len(found)} archives of the sources of {package}")
        return found[0]

    def newest(self, package: str) -> tuple[str, str]:
        """Return the version of a package and the SHA-256 of its file.

        Raises:
            DebianError: the suite has no such package.
        """
        self._update()
        said = _run(
            ["apt-cache", *self._options, "show", "--no-all-versions", package], self._directory
        )
        fields = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
        return fields["Version"], fields["SHA256"]

    def _update(self) -> None:
        if not self._updated:
            self._apt("update")
            self._updated = True

    def _apt(self, *arguments: str) -> None:
        _run(["apt-get", "-qq", *self._options, *arguments], self._directory)


def extract(archive: Path, root: Path) -> None:
    """Unpack a package into a directory, which is made if missing.

    Raises:
        DebianError: dpkg failed.
    """
    root.mkdir(parents=True, exist_ok=True)
    _run(["dpkg", "-x", str(archive), str(root)], root)


def _run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        raise DebianError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _mirror() -> str | None:
    """Return the archive of Debian that this machine is configured for, None if it has none."""
    lines = _SOURCES.read_text().splitlines() if _SOURCES.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith("URIs:")]
    return next((each for each in found if "security" not in each), None)
