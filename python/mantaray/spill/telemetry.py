"""The counts of an IO worker: a small file in the node's state directory.

The agent of the node sums up the files for the metrics (see `node`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mantaray.node_files import start_ticks, write_file

# The calls of Ray that are timed, and the upper bounds of the histogram's buckets in seconds. A bucket
# counts the calls that took at most so long, as in a histogram of Prometheus.
OPERATIONS = ("spill", "restore", "delete")
BOUNDS_S = (0.001, 0.01, 0.1, 1.0, 10.0)

_WRITE_PERIOD_S = 1.0


def class_name(operation: str, bound_s: float) -> str:
    """Return the name of the bucket for the calls that took at most so long."""
    return f"{operation}_calls_{bound_s:g}_s"


# The counts that the engine does not keep.
RESTORED_OBJECTS = "restored_objects"
RESTORED_BYTES = "restored_bytes"
DELETED_BYTES = "deleted_bytes"
PER_CALL = tuple(
    name
    for operation in OPERATIONS
    for name in (
        f"{operation}_calls",
        f"{operation}_call_s",
        *(class_name(operation, bound_s) for bound_s in BOUNDS_S),
    )
)


class Telemetry:
    """The counts of an IO worker, and the file that publishes them. Thread-safe."""

    def __init__(
        self, state_directory: str, node_id: str, engine_stats: Callable[[], Mapping[str, int]]
    ) -> None:
        """Prepare; nothing is written yet.

        Args:
            state_directory: the node's state directory; empty: no file is written.
            node_id: hex id of the node.
            engine_stats: returns the native engine's own counts.
        """
        self._engine_stats = engine_stats
        self._lock = threading.Lock()
        names = (RESTORED_OBJECTS, RESTORED_BYTES, DELETED_BYTES, *PER_CALL)
        self._counts: dict[str, float] = dict.fromkeys(names, 0)
        pid = os.getpid()
        ticks = start_ticks(pid)
        self._about = {"node_id": node_id, "pid": pid, "start_ticks": ticks}
        self._path = Path(state_directory, f"figures-{pid}-{ticks}.json")
        self._is_kept = bool(state_directory)
        self._written: dict[str, float] | None = None
        self._next_s = 0.0

    def add(self, name: str, count: int = 1) -> None:
        """Count something that the engine does not count.

        Args:
            name: of the count.
            count: how much is added.
        """
        with self._lock:
            self._counts[name] += count

    @contextlib.contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """Time a call of Ray, whether it succeeds or fails.

        Args:
            operation: one of `OPERATIONS`.
        """
        began_s = time.monotonic()
        try:
            yield
        finally:
            took_s = time.monotonic() - began_s
            with self._lock:
                self._counts[f"{operation}_calls"] += 1
                self._counts[f"{operation}_call_s"] += took_s
                for bound_s in BOUNDS_S:
                    self._counts[class_name(operation, bound_s)] += took_s <= bound_s

    def is_due(self) -> bool:
        """Return whether the file may be written again."""
        return time.monotonic() >= self._next_s

    def write(self, directories: Mapping[str, bool], fallback_directories: int) -> None:
        """Write the file if something has changed.

        Args:
            directories: this node's spill directories, and whether each can be used at the moment.
            fallback_directories: how many directories lack something that spilling object by object needs.

        Raises:
            OSError: it cannot be written.
        """
        if not self._is_kept:
            return
        self._next_s = time.monotonic() + _WRITE_PERIOD_S
        with self._lock:
            figures: dict[str, float] = {
                **self._engine_stats(),
                **self._counts,
                "directories_skipped": list(directories.values()).count(False),
                "fallback_directories": fallback_directories,
            }
        if figures == self._written:
            return
        self._written = figures
        write_file(self._path, {**self._about, **figures, "directories": list(directories)})
