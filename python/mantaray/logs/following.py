"""A growing file, piece by piece: what has been added since the last look, never more than a bound.

A file that was replaced (rotated) or became shorter is begun again from its start.
"""

from __future__ import annotations

import codecs
import os

from mantaray.logs.reading import open_regular

_READ_BYTES = 64 << 10


class Follower:
    """Reads a file as it grows. Not thread-safe."""

    def __init__(self, path: str, position: int = 0) -> None:
        """Follow a file, which need not exist yet.

        Args:
            path: the file.
            position: where to begin, in bytes.
        """
        self._path = path
        self._position = position
        self._fd: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> str:
        """Return what was added, at most 64 KiB of it; nothing when nothing was.

        Raises:
            PermissionError: this user may not read it.
            NotALogFileError: it is not a regular file.
        """
        if self._fd is None:
            try:
                self._fd = open_regular(self._path)
            except FileNotFoundError:
                return ""
        info = os.fstat(self._fd)
        if info.st_size < self._position:
            self._restart(0)
        data = os.pread(self._fd, _READ_BYTES, self._position)
        self._position += len(data)
        if not data and self._was_replaced(info):
            # All of the old file has been read; its successor comes with the next call.
            self.close()
        return self._decoder.decode(data)

    def _was_replaced(self, info: os.stat_result) -> bool:
        try:
            now = os.stat(self._path)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) != (info.st_dev, info.st_ino)

    def _restart(self, position: int) -> None:
        self._position = position
        self._decoder.reset()

    def close(self) -> None:
        """Let the file go; `read` would begin it again."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self._restart(0)


class LineBatches:
    """Cuts text into batches of lines, as Ray's job logs travel: so many lines or characters at most."""

    MAX_LINES = 10
    MAX_CHARS = 20_000

    def __init__(self, follower: Follower) -> None:
        """Batch what a follower reads."""
        self._follower = follower
        self._pending = ""

    def next(self) -> list[str] | None:
        """Return the next lines with their ends, or None when there is nothing new.

        A line that is not finished is returned as far as it goes once nothing follows, or once it is
        longer than a batch may be.
        """
        exhausted = False
        while not exhausted and not self._is_enough():
            more = self._follower.read()
            self._pending += more
            exhausted = not more
        lines: list[str] = []
        chars = 0
        while self._pending and len(lines) < self.MAX_LINES and chars < self.MAX_CHARS:
            end = self._pending.find("\n") + 1 or len(self._pending)
            line = self._pending[: min(end, self.MAX_CHARS - chars)]
            self._pending = self._pending[len(line) :]
            lines.append(line)
            chars += len(line)
        return lines or None

    def _is_enough(self) -> bool:
        return len(self._pending) >= self.MAX_CHARS or self._pending.count("\n") >= self.MAX_LINES
