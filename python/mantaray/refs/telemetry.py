"""A small file with the counts of this process's guards of Ray's counter, for the agent of the node.

Part of `mantaray.refs`. Few processes ever count anything, so most write no file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mantaray.node_files import start_ticks, write_file

DIRECTORY = "mantaray-refs"
COUNTS = ("repeated_ref_removed", "repeated_publisher_failed", "merged_late", "repeated_releases")


class GuardFile:
    """The file of this process.

    Args:
        session_dir: Ray's directory of the session.
        node_id: the node of this process, in hex.
    """

    def __init__(self, session_dir: str, node_id: str) -> None:
        self.path = Path(session_dir, DIRECTORY, f"{os.getpid()}.json")
        self._about = {
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "node_id": node_id,
        }
        self._written = dict.fromkeys(COUNTS, 0)

    def update(self) -> None:
        """Write the counts if they have changed.

        Raises:
            OSError: it cannot be written.
        """
        counts = _counts()
        if counts != self._written:
            write_file(self.path, {**self._about, **counts})
            self._written = counts


def _counts() -> dict[str, int]:
    """Return the guards' counts, all zero in a process to which no guard is attached."""
    found = dict.fromkeys(COUNTS, 0)
    # An attached guard has loaded the native module. It is not loaded only for this.
    if "mantaray._native" in sys.modules:
        from mantaray.refs import guard

        told: dict[str, Any] = {**guard.counts(), **guard.nesting_counts()}
        found.update((name, int(told[name])) for name in COUNTS)
    return found
