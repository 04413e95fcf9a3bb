"""The part of a custom wheel that is Mantaray: the files of the running Mantaray.

They are read from the package's directory and not from the metadata of a distribution, so that a
Mantaray which was installed by a custom wheel can make the next one.
"""

from __future__ import annotations

import os
import stat
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import mantaray
from mantaray.wheel.archive import WheelReader
from mantaray.wheel.errors import WheelError

PACKAGE = "mantaray"
PTH = "mantaray.pth"
NATIVE_STEM = f"{PACKAGE}/_native"
# The program of the distribution ray-mantaray-relay, which is installed into the package's directory.
RELAY = f"{PACKAGE}/bin/mantaray-relay"
_REQUIREMENTS = "requirements.txt"
_ELF = b"\x7fELF"
_INSTALL = "install ray-mantaray again with pip's --force-reinstall"


@dataclass(frozen=True)
class ContentFile:
    """One file that goes into the wheel.

    Attributes:
        name: its path in the wheel.
        source: where it is now.
        executable: whether it has an execute permission.
        native: whether it is machine code, which decides the platform tag.
    """

    name: str
    source: Path
    executable: bool
    native: bool

    @property
    def mode(self) -> int:
        """The file mode in the wheel. The umask of the user who installed Mantaray does not change it."""
        return stat.S_IFREG | (0o755 if self.executable else 0o644)


@dataclass(frozen=True)
class Contents:
    """A Mantaray, ready to go into wheels.

    Attributes:
        version: of Mantaray.
        files: all of its files, sorted by name.
        requirements: what it needs at run time, in the form of Requires-Dist.
    """

    version: str
    files: tuple[ContentFile, ...]
    requirements: tuple[str, ...]

    @property
    def natives(self) -> tuple[ContentFile, ...]:
        """The files that are machine code."""
        return tuple(file for file in self.files if file.native)


def installed_contents(site: Path | None = None, *, relay: bool = True) -> Contents:
    """Collect the files of the running Mantaray.

    Args:
        site: another directory that holds the package `mantaray` and `mantaray.pth`.
        relay: whether to take the relay, if it is installed.

    Raises:
        WheelError: the extension module or `mantaray.pth` is missing, or a file cannot be read.
    """
    root = site or Path(mantaray.__file__).resolve().parent.parent
    try:
        files = sorted(
            (_content_file(root, path) for path in _walk(root)), key=lambda file: file.name
        )
        files = [file for file in files if relay or file.name != RELAY]
        requirements = _requirements(root / PACKAGE / _REQUIREMENTS)
    except OSError as error:
        raise WheelError(
            f"this Mantaray is incomplete: {error.filename}: {error.strerror}", _INSTALL
        ) from error
    contents = Contents(mantaray.__version__, tuple(files), requirements)
    if _native_name() not in {file.name for file in contents.natives}:
        raise WheelError(f"this Mantaray has no native part ({_native_name()})", _INSTALL)
    return contents


def unpack(release: WheelReader, directory: Path) -> None:
    """Unpack the wheel of a Mantaray, or of its relay, without its metadata.

    Args:
        release: the wheel, for any Python.
        directory: where to.

    Raises:
        WheelError: a file is damaged or not what its RECORD says.
    """
    for name in release.record:
        if name.partition("/")[0] != release.dist_info:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(release.read_recorded(name))
            path.chmod(release.mode(name) & 0o777 | 0o600)


def unpacked_contents(directory: Path, version: str) -> Contents:
    """Return the contents for a custom wheel from unpacked wheels.

    Args:
        directory: where `unpack` has put them. It is needed as long as the contents are.
        version: of the Mantaray.

    Raises:
        WheelError: a file is missing.
    """
    try:
        names = sorted(path.relative_to(directory).as_posix() for path in _files_below(directory))
        files = tuple(_content_file(directory, directory / name) for name in names)
        requirements = _requirements(directory / PACKAGE / _REQUIREMENTS)
    except OSError as error:
        raise WheelError(
            f"the wheel of Mantaray {version} is incomplete: {error.filename}: {error.strerror}",
            "get the wheel again",
        ) from error
    return Contents(version, files, requirements)


def _files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _native_name() -> str:
    return f"{NATIVE_STEM}{sysconfig.get_config_var('EXT_SUFFIX')}"


def _walk(root: Path) -> list[Path]:
    found = [root / PTH]
    for directory, below, names in os.walk(root / PACKAGE):
        below[:] = sorted(name for name in below if name != "__pycache__")
        found += [Path(directory, name) for name in sorted(names) if not name.endswith(".pyc")]
    return [path for path in found if not _of_another_python(path.relative_to(root).as_posix())]


def _of_another_python(name: str) -> bool:
    """Return whether this is the extension module for another Python, as source trees have."""
    is_module = name.startswith(f"{NATIVE_STEM}.") and name.endswith(".so")
    return is_module and name != _native_name()


def _content_file(root: Path, path: Path) -> ContentFile:
    with path.open("rb") as file:
        native = file.read(len(_ELF)) == _ELF
        executable = bool(os.fstat(file.fileno()).st_mode & 0o111)
    return ContentFile(path.relative_to(root).as_posix(), path, executable, native)


def _requirements(path: Path) -> tuple[str, ...]:
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return tuple(line for line in lines if line)
