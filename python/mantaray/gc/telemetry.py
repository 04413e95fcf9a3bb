"""What a collector reports: a small file in the session's directory.

`mantaray gc stat` and, for its metrics, the agent of the node read these files (see `node`).
Reading them disturbs no process, and works even if a process hangs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from mantaray.gc.model import Collection, Counts
from mantaray.node_files import start_ticks, write_file

DIRECTORY = "mantaray-gc"
WRITE_PERIOD_S = 0.5


class StateFile:
    """The state of this process, for others to read.

    Args:
        session_dir: Ray's directory of the session.
        is_driver: whether this process is a driver.
        node_id: the node of this process, in hex.
    """

    def __init__(self, session_dir: str, is_driver: bool, node_id: str) -> None:
        self.path = Path(session_dir, DIRECTORY, f"{os.getpid()}.json")
        self._about = {
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "driver": is_driver,
            "node_id": node_id,
        }
        self._written: tuple[dict[str, float], str] | None = None
        self._written_at = -WRITE_PERIOD_S

    def update(self, counts: Counts, state: str, last: Collection | None) -> bool:
        """Write what has changed, at most at a bounded rate; return whether there is more to write.

        Raises:
            OSError: it cannot be written.
        """
        told = (counts.as_dict(), state)
        now = time.monotonic()
        if told == self._written:
            return False
        if now - self._written_at < WRITE_PERIOD_S:
            return True
        self._written, self._written_at = told, now
        content: dict[str, Any] = {**self._about, **told[0], "state": state, "at": time.time()}
        if last is not None:
            content["last"] = {"kind": last.kind.value, "why": last.why, "pause_s": last.pause_s}
        write_file(self.path, content)
        return False

    def remove(self) -> None:
        """Remove the file of a process that ends."""
        self.path.unlink(missing_ok=True)
