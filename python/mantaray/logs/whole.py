"""Reads a whole log file as the text of a JSON object, piece by piece, with memory for one block.

The result is that of `json.dumps({"logs": open(path).read()})`: text in the encoding of the locale,
every line end as "\\n", everything beyond ASCII escaped. A file is read twice. The first reading checks
that all of it can be decoded, because an answer that has begun cannot become an error any more.
"""

from __future__ import annotations

import codecs
import io
import json
import locale
import os
import threading

from mantaray.logs.reading import open_regular

_BLOCK_BYTES = 256 << 10
_BLOCKS_IN_A_CHECK = 16


class UndecodableLogError(UnicodeDecodeError):
    """A log is not text. The error names the place in the file, which the plain error cannot."""

    def __init__(self, error: UnicodeDecodeError, position: int) -> None:
        """Name the place.

        Args:
            error: the error of the block.
            position: where the block begins, in bytes from the beginning of the file.
        """
        super().__init__(error.encoding, error.object, error.start, error.end, error.reason)
        self._position = position

    def __str__(self) -> str:
        first, last = self._position + self.start, self._position + self.end - 1
        what = f"byte {self.object[self.start]:#04x} in position {first}"
        if first != last:
            what = f"bytes in position {first}-{last}"
        return f"'{self.encoding}' codec can't decode {what}: {self.reason}"


class WholeLog:
    """The log as it was when it was opened, without what is added later.

    Thread-safe. `close` waits for a `read` in progress.
    """

    def __init__(self, path: str) -> None:
        """Open a log.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: there is no such file.
            PermissionError: this user may not read it.
            NotALogFileError: it is not a regular file.
        """
        # This object closes the file itself when it is no longer referenced.
        self._file = io.FileIO(open_regular(path))
        self._size_bytes = os.fstat(self._file.fileno()).st_size
        self._encoding = locale.getpreferredencoding(False)
        self._checker: codecs.IncrementalDecoder | None = None
        self._checked_bytes = 0
        # If the file was overwritten since the check, the answer continues all the same.
        decoder = codecs.getincrementaldecoder(self._encoding)("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._position = 0
        self._next = '{"logs": "'
        self._ended = False
        self._lock = threading.Lock()

    def check_piece(self) -> bool:
        """Check that the next piece of the log is text; return whether there is more to check.

        A log is checked in pieces, so that the check of a long log blocks no thread for long.

        Raises:
            UndecodableLogError: it contains bytes that are no text in the encoding of the locale.
            OSError: the file cannot be read.
        """
        with self._lock:
            return self._check_piece()

    def _check_piece(self) -> bool:
        checker = self._checker or codecs.getincrementaldecoder(self._encoding)("strict")
        self._checker = checker
        for _ in range(_BLOCKS_IN_A_CHECK):
            block = self._block_at(self._checked_bytes)
            if not block:
                self._checked_bytes = self._size_bytes
                break
            is_last = self._checked_bytes + len(block) >= self._size_bytes
            pending = checker.getstate()[0]
            # ASCII is the same in every encoding that a locale can have, and this check is cheap.
            if pending or not block.isascii():
                try:
                    checker.decode(block, is_last)
                except UnicodeDecodeError as error:
                    at = self._checked_bytes - len(pending)
                    raise UndecodableLogError(error, at) from None
            self._checked_bytes += len(block)
        return self._checked_bytes < self._size_bytes

    def _block_at(self, position: int) -> bytes:
        wanted = min(_BLOCK_BYTES, self._size_bytes - position)
        return os.pread(self._file.fileno(), wanted, position)

    def read(self) -> bytes:
        """Return the next piece of the JSON text, nothing at its end.

        The first call checks what `check_piece` has not checked.

        Raises:
            UndecodableLogError: see `check_piece`.
            OSError: the file cannot be read.
        """
        with self._lock:
            while self._checked_bytes < self._size_bytes:
                self._check_piece()
            while not self._next and not self._ended:
                block = self._block_at(self._position)
                self._position += len(block)
                # It ends early if the file has become shorter.
                self._ended = not block
                text = self._decoder.decode(block, final=self._ended)
                self._next = json.dumps(text)[1:-1] + ('"}' if self._ended else "")
            piece, self._next = self._next, ""
        return piece.encode("ascii")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()
