"""Reads a growing log piece by piece: each piece is new since the last one, and its size is bounded.

Faults that a follower survives without losing a line that is still in a file:

- Rotation by renaming (logrotate's `create`). The writer may keep its descriptor or open the new file. Both
  files are followed, and the old one is let go when no process has it open for writing any more.
- Several such rotations between two looks, as long as the files are called `LOG.1`, `LOG.2` and so on.
- Rotation by copying and truncating (`copytruncate`). What was not read before the truncation comes from
  the copy. A writer that does not append leaves a hole at the beginning, which is skipped.
- Replacement of the whole content, which is read from its beginning.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import itertools
import os
import threading

from mantaray.logs.reading import open_regular
from mantaray.logs.writers import may_be_written

_READ_BYTES = 64 << 10
# How many of the latest bytes are remembered, to recognise a file that was truncated and has grown.
_MEMORY_BYTES = 64
# How many rotated files that may still be written to are followed. Beyond that the oldest is
# closed.
_MAX_OLD_FILES = 16


class _File:
    """One file that is being read."""

    def __init__(self, path: str, position: int) -> None:
        self.fd = open_regular(path)
        info = os.fstat(self.fd)
        self.identity = (info.st_dev, info.st_ino)
        self._path = path
        self._position = position
        self._memory = os.pread(self.fd, _MEMORY_BYTES, max(0, position - _MEMORY_BYTES))
        self._memory = self._memory[: min(position, _MEMORY_BYTES)]
        self._was_shorter = False
        self._in_hole = False
        # The rest of the log in a copy, which this file no longer contains.
        self._rescued: _Rescue | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> str:
        """Return the next piece; empty if there is none, or only a part of a character."""
        self._look_for_truncation()
        while True:
            data = self._next()
            text = self._decoder.decode(data)
            # A block may end within its first character.
            if text or not data:
                return text

    def _next(self) -> bytes:
        if self._rescued is not None:
            if data := self._rescued.read():
                return data
            self._rescued.close()
            self._rescued = None
            self._decoder.reset()
        while data := os.pread(self.fd, _READ_BYTES, self._position):
            self._position += len(data)
            self._memory = (self._memory + data)[-_MEMORY_BYTES:]
            if self._in_hole:
                data = data.lstrip(b"\0")
            if data:
                self._in_hole = False
                return data
        return b""

    def _look_for_truncation(self) -> None:
        size_bytes = os.fstat(self.fd).st_size
        if size_bytes < self._position:
            self._was_shorter = True
            if size_bytes == 0:
                # The next write shows whether the writer appends.
                return
        elif not self._was_shorter and self._before_position() == self._memory:
            return
        before = self._before_position() if size_bytes >= self._position else b""
        self._was_shorter = False
        if before and not before.strip(b"\0") and self._memory.strip(b"\0"):
            self._begin_behind_hole()
        else:
            self._begin_again()

    def _before_position(self) -> bytes:
        return os.pread(self.fd, len(self._memory), self._position - len(self._memory))

    def _begin_again(self) -> None:
        self._find_copy()
        self._position = 0
        self._memory = b""

    def _begin_behind_hole(self) -> None:
        """Continue at the position of a writer that kept it while the file was truncated."""
        self._find_copy()
        position = self._position if self._rescued is None else self._rescued.size_bytes
        try:
            self._position = max(position, os.lseek(self.fd, position, os.SEEK_DATA))
        except OSError:
            self._position = os.fstat(self.fd).st_size
        self._memory = b""
        # A hole ends at the beginning of a block, and the data may begin later in that block.
        self._in_hole = True

    def _find_copy(self) -> None:
        if self._rescued is not None:
            self._rescued.close()
        self._rescued = _Rescue.find(self._path, self.identity, self._position, self._memory)
        if self._rescued is None:
            self._decoder.reset()

    def close(self) -> None:
        """Let the file go."""
        if self._rescued is not None:
            self._rescued.close()
            self._rescued = None
        os.close(self.fd)


class _Rescue:
    """The rest of a log in the copy that was made before the log was truncated."""

    def __init__(self, fd: int, position: int) -> None:
        self._fd = fd
        self._position = position
        self.size_bytes = os.fstat(fd).st_size

    @classmethod
    def find(
        cls, path: str, identity: tuple[int, int], position: int, memory: bytes
    ) -> _Rescue | None:
        """Return the copy that contains the bytes after the last one read; None if there is none.

        Args:
            path: the log. Names of copies begin with its name.
            identity: of the log itself, which does not count as a copy.
            position: how far the log was read, in bytes.
            memory: the bytes before this position.
        """
        if not memory:
            return None
        copies = []
        for name in glob.glob(glob.escape(path) + "[.-]*"):
            with contextlib.suppress(OSError):
                info = os.stat(name)
                if (info.st_dev, info.st_ino) != identity and info.st_size > position:
                    copies.append((info.st_mtime_ns, name))
        for _, name in sorted(copies, reverse=True):
            with contextlib.suppress(OSError):
                fd = open_regular(name)
                if os.pread(fd, len(memory), position - len(memory)) == memory:
                    return cls(fd, position)
                os.close(fd)
        return None

    def read(self) -> bytes:
        """Return the next piece of the copy."""
        data = os.pread(self._fd, _READ_BYTES, self._position)
        self._position += len(data)
        return data

    def close(self) -> None:
        """Let the copy go."""
        os.close(self._fd)


class Follower:
    """Reads a log as it grows.

    One thread at a time may read. Any thread may call `close`, even while another thread reads.
    """

    def __init__(self, path: str, position: int = 0) -> None:
        """Follow a log, which need not exist yet.

        Args:
            path: the log.
            position: where to start, in bytes.
        """
        self._path = path
        self._first_position = position
        # Oldest first. The last one is, or was, the file at this path.
        self._files: list[_File] = []
        self._closed = False
        self._reading = threading.Lock()

    def read(self) -> str:
        """Return what was added, at most 64 KiB of it; nothing if nothing was added, or after `close`.

        Raises:
            PermissionError: this user may not read it.
            NotALogFileError: it is not a regular file.
        """
        try:
            with self._reading:
                return "" if self._closed else self._read()
        finally:
            # If `close` was called meanwhile, it left the files to this thread.
            if self._closed:
                self.close()

    def _read(self) -> str:
        if not self._files:
            with contextlib.suppress(FileNotFoundError):
                self._files.append(_File(self._path, self._first_position))
        text = self._read_known()
        # All known files have been read.
        while not text and self._open_successors():
            text = self._read_known()
        return text

    def _read_known(self) -> str:
        for file in list(self._files):
            is_old = file is not self._files[-1]
            # The order matters: what a writer wrote before it ended is still read.
            ended = is_old and not may_be_written(file.fd)
            if text := file.read():
                return text
            if ended:
                self._files.remove(file)
                file.close()
        return ""

    def _open_successors(self) -> bool:
        """Open the files that came after the newest followed one; return whether there are any."""
        if not self._files:
            return False
        newest = self._files[-1].identity
        names = []
        with contextlib.suppress(OSError):
            info = os.stat(self._path)
            if (info.st_dev, info.st_ino) != newest:
                names = [*_rotated_after(self._path, newest), self._path]
        known = {file.identity for file in self._files}
        before = len(self._files)
        for name in names:
            # A successor that cannot be read must not stop the reading of open files.
            with contextlib.suppress(OSError):
                file = _File(name, 0)
                if file.identity in known:
                    file.close()
                else:
                    self._files.append(file)
                    known.add(file.identity)
        while len(self._files) > _MAX_OLD_FILES + 1:
            self._files.pop(0).close()
        return len(self._files) > before

    def close(self) -> None:
        """Close the files for good. A read in progress closes them when it is done."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            try:
                self._close_files()
            finally:
                self._reading.release()

    def _close_files(self) -> None:
        while self._files:
            self._files.pop().close()


def _rotated_after(path: str, identity: tuple[int, int]) -> list[str]:
    """Return the files `path`.N that were rotated away after a file, oldest first."""
    names: list[str] = []
    for number in itertools.count(1):
        name = f"{path}.{number}"
        try:
            info = os.stat(name)
        except OSError:
            # The file was compressed or removed, so it is unknown which of the others came after
            # it.
            return []
        if (info.st_dev, info.st_ino) == identity:
            return names[::-1]
        names.append(name)
    raise AssertionError("count() does not end")


class LineBatches:
    """Cuts text into batches of lines with the limits of Ray's job logs, in lines and in characters."""

    MAX_LINES = 10
    MAX_CHARS = 20_000

    def __init__(self, follower: Follower) -> None:
        """Batch what a follower reads."""
        self._follower = follower
        self._pending = ""

    def next(self) -> list[str] | None:
        """Return the next lines with their ends; None if there is nothing new.

        An unfinished line is returned as far as it goes if nothing follows, or if it is longer than
        a batch may be.
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
