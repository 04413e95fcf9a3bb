"""Wheels as zip files: a reader that checks everything, and a writer that is reproducible to the byte.

The reader raises a WheelError for every way in which a zip file can be broken. The writer fixes everything
that makes two zip files of the same content differ: times, compression, the system that made it.
"""

from __future__ import annotations

import os
import stat
import time
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from mantaray.wheel.errors import WheelError
from mantaray.wheel.record import Entry, parse_record

# Everything that zipfile and zlib raise for a file that is damaged or not a zip file.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
_GET_AGAIN = "get the wheel again: `mantaray wheel --ray VERSION` without --from downloads it"
# A RECORD does not name its own signatures, and they are invalid after a change of it.
SIGNATURES = ("RECORD.jws", "RECORD.p7s")
# The earliest time that a zip file can hold.
_ZIP_EPOCH_S = 315532800
_UNIX = 3
# The mode of a file in a written wheel if no other mode is known: plain and readable.
PLAIN_MODE = stat.S_IFREG | 0o644


class WheelReader:
    """An open wheel: the parts of its name, its files, and their entries in its RECORD.

    Attributes:
        path: the file.
        name: the project, normalised ("ray").
        version: the version in the file name.
        tags: the tags in the file name.
        python, abi, platform: the three parts of the tag in the file name, as written.
        dist_info: the metadata directory, without a slash.
        record: entry by path, from RECORD.
        record_text: the content of RECORD.
    """

    def __init__(self, path: Path) -> None:
        """Open a wheel and read its directory and RECORD.

        Args:
            path: the wheel.

        Raises:
            WheelError: it does not exist, is not named like a wheel, or is damaged.
        """
        self.path = path
        name, self.version, _, tags = _parse_name(path)
        self.name = str(name)
        self.tags: frozenset[Tag] = frozenset(tags)
        self.python, self.abi, self.platform = path.name.removesuffix(".whl").split("-")[-3:]
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise self._unreadable(error) from error
        except _DAMAGE as error:
            raise self._damaged(str(error)) from error
        try:
            self._infos = self._directory()
            self.dist_info = self._find_dist_info()
            self.record_text = self.read(f"{self.dist_info}/RECORD")
            self.record: Mapping[str, Entry] = parse_record(self.record_text, path.name)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> WheelReader:
        """Return the reader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._zip.close()

    def _unreadable(self, error: OSError) -> WheelError:
        return WheelError(
            f"{self.path} cannot be read: {error.strerror}", "give the path of a wheel file"
        )

    def _damaged(self, what: str) -> WheelError:
        return WheelError(f"{self.path.name} is damaged: {what}", _GET_AGAIN)

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            parts = PurePosixPath(info.filename).parts
            if info.filename.startswith("/") or ".." in parts or "\\" in info.filename:
                raise self._damaged(f"it has a file that would land elsewhere, {info.filename}")
            if info.filename in infos:
                raise self._damaged(f"it has {info.filename} twice")
            infos[info.filename] = info
        return infos

    def _find_dist_info(self) -> str:
        found = {name.split("/")[0] for name in self._infos if "/" in name}
        found = {name for name in found if name.endswith(".dist-info")}
        if len(found) != 1:
            raise self._damaged(f"it has {len(found)} .dist-info directories at its root, not one")
        return found.pop()

    def names(self) -> list[str]:
        """Return every file of the wheel, sorted."""
        return sorted(self._infos)

    def __contains__(self, name: str) -> bool:
        """Return whether the wheel has a file of that name."""
        return name in self._infos

    def mode(self, name: str) -> int:
        """Return the Unix file mode of a file; 0 if the wheel has none."""
        return self._infos[name].external_attr >> 16

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            WheelError: there is no such file, or it is damaged.
        """
        if name not in self._infos:
            raise self._damaged(f"it has no {name}")
        try:
            return self._zip.read(name)
        except OSError as error:
            raise self._unreadable(error) from error
        except _DAMAGE as error:
            raise self._damaged(f"{name} cannot be unpacked ({error})") from error

    def read_recorded(self, name: str) -> bytes:
        """Return the content of a file after comparing it with RECORD.

        Raises:
            WheelError: as `read`, or the content is not what RECORD says.
        """
        data = self.read(name)
        if not self.record[name].matches(data):
            raise self._damaged(f"{name} is not what its RECORD says")
        return data

    def unrecorded(self) -> list[str]:
        """Return the files that RECORD should name but does not, sorted."""
        own = {f"{self.dist_info}/{name}" for name in ("RECORD", *SIGNATURES)}
        return sorted(self._infos.keys() - self.record.keys() - own)

    def absent(self) -> list[str]:
        """Return the files that RECORD names but the wheel lacks, sorted."""
        return sorted(self.record.keys() - self._infos.keys())

    def require_complete(self) -> None:
        """Check that RECORD names exactly the files of the wheel.

        Raises:
            WheelError: it does not.
        """
        if self.absent():
            raise self._damaged(f"its RECORD names {self.absent()[0]}, which it does not have")
        if self.unrecorded():
            raise self._damaged(f"its RECORD does not name {self.unrecorded()[0]}")


def _parse_name(path: Path) -> tuple[str, Version, object, frozenset[Tag]]:
    try:
        return parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise WheelError(
            f"{path.name} is not named like a wheel",
            "a wheel keeps the name it was published under, as ray-2.60.0-cp311-cp311-PLATFORM.whl",
        ) from error


def same_project(left: str, right: str) -> bool:
    """Return whether two spellings name the same project."""
    return canonicalize_name(left) == canonicalize_name(right)


def timestamp() -> tuple[int, int, int, int, int, int]:
    """Return the time that every file of a written wheel gets: SOURCE_DATE_EPOCH or 1980-01-01.

    Raises:
        WheelError: SOURCE_DATE_EPOCH is not a number of seconds that a zip file can hold.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH") or str(_ZIP_EPOCH_S)
    try:
        moment = time.gmtime(max(int(text), _ZIP_EPOCH_S))
    except (ValueError, OverflowError, OSError) as error:
        raise _bad_epoch(text) from error
    if moment.tm_year > 2107:
        raise _bad_epoch(text)
    return moment[:6]


def _bad_epoch(text: str) -> WheelError:
    return WheelError(
        f"SOURCE_DATE_EPOCH is set to {text!r}; allowed: seconds since 1970, until the year 2107",
        "unset it, or set it to the time of a commit: git log -1 --format=%ct",
    )


class WheelWriter:
    """Writes a wheel so that the same files in the same order give the same bytes.

    This is a context manager. Leaving it without an error finishes the wheel.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Start a wheel.

        Args:
            file: where to, opened for writing; stays open.

        Raises:
            WheelError: SOURCE_DATE_EPOCH has a bad value.
        """
        self._time = timestamp()
        self._zip = zipfile.ZipFile(file, "w")

    def add(self, name: str, data: bytes, mode: int) -> None:
        """Add a file.

        Args:
            name: path in the wheel.
            data: its content.
            mode: its Unix file mode; 0 for a plain readable file.

        Raises:
            OSError: it cannot be written.
        """
        info = zipfile.ZipInfo(name, self._time)
        info.create_system = _UNIX
        info.external_attr = (mode or PLAIN_MODE) << 16
        self._zip.writestr(info, data, zipfile.ZIP_DEFLATED, compresslevel=6)

    def __enter__(self) -> WheelWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the directory of the zip file.

        Raises:
            OSError: it cannot be written, and nothing went wrong before.
        """
        if error is None:
            self._zip.close()
            return
        # Close it in any case. An open writer would try to write again when it is collected.
        with suppress(OSError):
            self._zip.close()
