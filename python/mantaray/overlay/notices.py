"""Warnings that something was not patched, each once for a whole tree of processes."""

from __future__ import annotations

import os
import sys
import zlib

# Child processes inherit this variable, so the hundreds of workers of a node do not repeat what the
# process that started them has printed.
_SAID = "_MANTARAY_SAID"


class Notices:
    """The warnings of this process."""

    def __init__(self) -> None:
        self.muted = False

    def warn(self, message: str) -> None:
        """Write one line to stderr unless this process or one above it has written the same."""
        said = [mark for mark in os.environ.get(_SAID, "").split(",") if mark]
        mark = f"{zlib.crc32(message.encode()):08x}"
        if self.muted or mark in said:
            return
        os.environ[_SAID] = ",".join([*said, mark])
        if sys.stderr is not None:
            print(f"mantaray: {message}", file=sys.stderr, flush=True)


NOTICES = Notices()
