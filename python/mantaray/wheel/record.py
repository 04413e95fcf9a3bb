"""The RECORD of a wheel: every file with its hash and size, read and written."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

from mantaray.wheel.errors import WheelError

# The wheel format forbids weaker hashes.
_ALGORITHMS = frozenset({"sha256", "sha384", "sha512"})


@dataclass(frozen=True)
class Entry:
    """The entry of one file in a RECORD.

    Attributes:
        algorithm: name of the hash; empty for a RECORD's own line.
        digest: the hash's bytes; empty for a RECORD's own line.
        size_bytes: length of the file; None if the line does not contain it.
    """

    algorithm: str
    digest: bytes
    size_bytes: int | None

    def matches(self, data: bytes) -> bool:
        """Return whether this is the entry of a file with that content."""
        if self.size_bytes is not None and self.size_bytes != len(data):
            return False
        return hashlib.new(self.algorithm, data).digest() == self.digest


def entry_of(data: bytes) -> Entry:
    """Return the entry of a file with that content."""
    return Entry("sha256", hashlib.sha256(data).digest(), len(data))


def parse_record(text: bytes, wheel: str) -> dict[str, Entry]:
    """Read a RECORD.

    Args:
        text: the whole file.
        wheel: name of the wheel, for error messages.

    Returns:
        The entries by path. The lines of the RECORD itself, which has no hash, are left out.

    Raises:
        WheelError: a line is not one of a RECORD, or names a path twice.
    """
    entries: dict[str, Entry] = {}
    try:
        for row in csv.reader(io.StringIO(text.decode("utf-8"))):
            if not row or (len(row) == 3 and not row[1]):
                continue
            path, hashed, size = row
            algorithm, encoded = hashed.split("=", 1)
            if algorithm not in _ALGORITHMS or path in entries:
                raise ValueError(path)
            digest = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            entries[path] = Entry(algorithm, digest, int(size) if size else None)
    except (ValueError, csv.Error, binascii.Error) as error:
        raise WheelError(
            f"the RECORD of {wheel} cannot be read ({error})", "get the wheel again"
        ) from error
    return entries


def format_record(entries: Iterable[tuple[str, Entry]], own_path: str) -> bytes:
    """Write a RECORD.

    Args:
        entries: path and entry of every file, in the order to write.
        own_path: the path of the RECORD itself, which is its last line and has no hash.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for path, entry in entries:
        encoded = base64.urlsafe_b64encode(entry.digest).rstrip(b"=").decode("ascii")
        writer.writerow([path, f"{entry.algorithm}={encoded}", entry.size_bytes])
    writer.writerow([own_path, "", ""])
    return out.getvalue().encode("utf-8")
