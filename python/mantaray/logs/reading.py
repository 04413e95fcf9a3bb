"""Reads the last lines of any file, as a terminal would show them.

The file is read backwards from its end in growing blocks, until there are enough lines or a budget
of bytes is used up. The budget depends on what is wanted, never on the file: a line of 10 GB costs
what a line of 1 MB costs.

A line ends with "\\n" (or "\\r\\n"). A line that was rewritten with "\\r", as progress bars do, counts
as what was written last. A file that shrinks while it is read is read again.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

# How much more is read than can be shown, to find line ends behind rewritten lines.
_REWRITES_BYTES = 1 << 20
_MAX_UTF8_BYTES = 4
_FIRST_BLOCK_BYTES = 16 << 10
_LAST_BLOCK_BYTES = 256 << 10
_ATTEMPTS = 3


class NotALogFileError(OSError):
    """The path is a directory, a pipe or a device, which has no last line."""


class _ShrunkError(Exception):
    """The file became shorter while it was read."""


@dataclass(frozen=True)
class _Part:
    """The end of one file: decoded lines with their ends, and whether they are the whole file."""

    lines: list[str]
    whole: bool


def tail(
    path: str | os.PathLike[str],
    lines: int = 10,
    max_chars: int = 20_000,
    *,
    rewrites: str = "last",
    rotated: bool = True,
) -> str:
    """Return the last lines of a file.

    Bytes that are not UTF-8 become U+FFFD. Memory and time depend on the result and not on the size
    of the file.

    Args:
        path: a regular file.
        lines: how many lines at most.
        max_chars: how many characters at most; the last ones are kept.
        rewrites: "last" shows only the last state of a line that was rewritten with carriage returns,
            "all" shows all states.
        rotated: whether to read earlier files too (`path`.1, `path`.2, ...) if this one has too few lines.

    Returns:
        The text; each line has its "\\n". The beginning of the first line is missing if that line is too
        long. There are fewer lines than wanted if more than 4 * max_chars + 1 MiB of rewritten text lie
        between them.

    Raises:
        ValueError: `lines` or `max_chars` is negative, or `rewrites` is neither of the two.
        FileNotFoundError: there is no such file.
        PermissionError: this user may not read it.
        NotALogFileError: it is not a regular file.
    """
    if lines < 0 or max_chars < 0:
        raise ValueError(f"lines ({lines}) and max_chars ({max_chars}) must not be negative")
    if rewrites not in ("last", "all"):
        raise ValueError(f"rewrites is {rewrites!r}; allowed: last or all")
    if lines == 0 or max_chars == 0:
        return ""
    found: list[str] = []
    for number, name in enumerate(_generations(os.fspath(path)) if rotated else [os.fspath(path)]):
        chars = sum(map(len, found))
        try:
            part = _end_of(name, lines - len(found), max_chars - chars, rewrites)
        except FileNotFoundError:
            if number == 0:
                raise
            break
        if found and part.lines and not part.lines[-1].endswith("\n"):
            part.lines[-1] += "\n"
        found = part.lines + found
        if not part.whole or len(found) >= lines or chars >= max_chars:
            break
    return "".join(found[-lines:])[-max_chars:]


def _generations(path: str) -> Iterator[str]:
    yield path
    for number in itertools.count(1):
        yield f"{path}.{number}"


def _end_of(path: str, lines: int, max_chars: int, rewrites: str) -> _Part:
    for attempt in range(_ATTEMPTS):
        fd = open_regular(path)
        try:
            data, whole = _read_back(fd, lines, max_chars, strict=attempt + 1 < _ATTEMPTS)
        except _ShrunkError:
            continue
        finally:
            os.close(fd)
        break
    return _Part(_lines_of(data, whole, rewrites)[-lines:], whole)


def open_regular(path: str) -> int:
    """Open a regular file for reading and return the descriptor.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: this user may not read it.
        NotALogFileError: it is not a regular file.
    """
    # Non-blocking, because opening a pipe would wait until a process writes to it.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise NotALogFileError(errno.EINVAL, "not a regular file, so it has no last line", path)


def _read_back(fd: int, lines: int, max_chars: int, *, strict: bool) -> tuple[bytes, bool]:
    """Return enough of the end of the file for so many lines, and whether that is the whole file."""
    start = end = os.fstat(fd).st_size
    # One character more, so that a first character that was cut is never shown.
    budget_bytes = _MAX_UTF8_BYTES * (max_chars + 1) + _REWRITES_BYTES
    block_bytes = _FIRST_BLOCK_BYTES
    blocks: list[bytes] = []
    newlines = 0
    while start > 0 and newlines <= lines and end - start < budget_bytes:
        size_bytes = min(block_bytes, start, budget_bytes - (end - start))
        block = os.pread(fd, size_bytes, start - size_bytes)
        if len(block) < size_bytes:
            if strict:
                raise _ShrunkError
            blocks.clear()
        start -= size_bytes
        blocks.append(block)
        newlines += block.count(b"\n")
        block_bytes = min(2 * block_bytes, _LAST_BLOCK_BYTES)
    return b"".join(reversed(blocks)), start == 0


def _lines_of(data: bytes, whole: bool, rewrites: str) -> list[str]:
    if not whole:
        # The first bytes may be the rest of a character.
        cut = next((at for at, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80), 3)
        data = data[cut:]
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    # splitlines() would also split at form feeds and at characters of other scripts.
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    if not lines[-1]:
        lines.pop()
    return lines if rewrites == "all" else [_last_state(line) for line in lines]


def _last_state(line: str) -> str:
    """Return the last state of a line. A carriage return at its end changes nothing."""
    if "\r" not in line:
        return line
    end = "\n" if line.endswith("\n") else ""
    states = [state for state in line.removesuffix("\n").split("\r") if state]
    return (states[-1] if states else "") + end
