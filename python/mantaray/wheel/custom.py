"""A custom wheel as a value: every file of an official Ray wheel, byte for byte, and a Mantaray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO

from packaging.tags import parse_tag

from mantaray.wheel.archive import SIGNATURES, WheelReader, WheelWriter
from mantaray.wheel.bounds import bounds_for
from mantaray.wheel.contents import Contents
from mantaray.wheel.layout import UPSTREAM_RECORD, custom_version
from mantaray.wheel.metadata import edit_entry_points, edit_metadata, edit_top_level, edit_wheel
from mantaray.wheel.record import Entry, entry_of, format_record


class CustomWheel:
    """The wheel that is made of an official wheel and a Mantaray.

    The same inputs give the same bytes, so it can also be compared with an existing wheel.

    Attributes:
        file_name: of the wheel.
    """

    def __init__(self, official: WheelReader, mantaray: Contents, platform: str) -> None:
        """Combine the inputs.

        Args:
            official: the official wheel, open.
            mantaray: the Mantaray to put in.
            platform: the platform tag of the result.
        """
        self._official = official
        self._mantaray = mantaray
        self._version = custom_version(str(official.version), mantaray.version)
        self._tag = f"{official.python}-{official.abi}-{platform}"
        self._dist_info = f"ray-{self._version}.dist-info"
        self.file_name = f"ray-{self._version}-{self._tag}.whl"

    def write(self, file: IO[bytes]) -> None:
        """Write it: files in sorted order, then the metadata directory, and RECORD last of all.

        Raises:
            OSError: it cannot be written.
            WheelError: a file of the official wheel is not what its RECORD says.
        """
        with WheelWriter(file) as writer:
            for name, data, mode in self.files():
                writer.add(name, data, mode)

    def files(self) -> Iterator[tuple[str, bytes, int]]:
        """Yield name, content and mode of every file, in the order in which they are written.

        Raises:
            WheelError: a file of the official wheel is not what its RECORD says.
        """
        record: list[tuple[str, Entry]] = []
        for name, data, mode in self._recorded_files():
            yield name, data, mode
            record.append((name, entry_of(data)))
        own_path = f"{self._dist_info}/RECORD"
        mode = self._official.mode(f"{self._official.dist_info}/RECORD")
        yield own_path, format_record(record, own_path), mode

    def _recorded_files(self) -> Iterator[tuple[str, bytes, int]]:
        """Yield name, content and mode of every file but RECORD, in the order to write."""
        prefix = f"{self._official.dist_info}/"
        outside = [name for name in self._official.names() if not name.startswith(prefix)]
        added = {file.name: file for file in self._mantaray.files}
        for name in sorted([*outside, *added]):
            if name in added:
                yield name, added[name].source.read_bytes(), added[name].mode
            else:
                yield name, self._official.read_recorded(name), self._official.mode(name)
        metadata = self._metadata_files()
        for name in sorted(metadata):
            yield (f"{self._dist_info}/{name}", *metadata[name])

    def _metadata_files(self) -> dict[str, tuple[bytes, int]]:
        """Return content and mode of the metadata files but RECORD, by name below .dist-info."""
        prefix = f"{self._official.dist_info}/"
        left_out = {f"{prefix}{name}" for name in ("RECORD", *SIGNATURES)}
        files = {
            name.removeprefix(prefix): (
                self._official.read_recorded(name),
                self._official.mode(name),
            )
            for name in self._official.names()
            if name.startswith(prefix) and name not in left_out
        }
        requirements = [*self._mantaray.requirements, *bounds_for(str(self._official.version))]
        edits: dict[str, Callable[[bytes], bytes]] = {
            "METADATA": lambda text: edit_metadata(text, self._version, requirements),
            "WHEEL": lambda text: edit_wheel(
                text, sorted(map(str, parse_tag(self._tag))), f"mantaray {self._mantaray.version}"
            ),
            "entry_points.txt": edit_entry_points,
            "top_level.txt": edit_top_level,
        }
        for name, edit in edits.items():
            text, mode = files.get(name, (b"", 0))
            files[name] = edit(text), mode
        files[UPSTREAM_RECORD] = self._official.record_text, 0
        return files
