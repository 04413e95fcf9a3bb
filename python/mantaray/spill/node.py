"""The metrics of one node's spilling: the counts of its IO workers, and what is on its disks.

The number of series does not depend on the number of processes or objects.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from mantaray.node_figures import Figure, Metric
from mantaray.node_files import NodeFiles
from mantaray.spill.stat import SpillStat, stat_directory
from mantaray.spill.state import STATE_DIRECTORY
from mantaray.spill.telemetry import BOUNDS_S, OPERATIONS, PER_CALL, class_name

PREFIX = "mantaray_spill_"
# The largest share of time spent on reading the disks. A reading takes longer with more objects.
_LOOK_PERIOD_S = 10.0
_REST_PER_LOOK = 100

# Sums over all IO workers of the node, including ended ones. They never fall while the node's agent runs.
SUMS = (
    Metric("spilled_objects", "spilled_objects", "count", "Objects written to disk."),
    Metric("spilled_bytes", "spilled_bytes", "bytes", "Bytes of the objects written to disk."),
    Metric("restored_objects", "restored_objects", "count", "Objects read back into the store."),
    Metric("restored_bytes", "restored_bytes", "bytes", "Bytes read back into the store."),
    Metric("deleted_objects", "deleted_objects", "count", "Objects deleted from disk."),
    Metric("deleted_bytes", "deleted_bytes", "bytes", "Bytes of the deletes that Ray asked for."),
    Metric("punched_bytes", "punched_bytes", "bytes", "Bytes given back inside of segments."),
    Metric("failed_punches", "failed_punches", "count", "Punches that failed; they are repeated."),
    Metric("delayed_punches", "delayed_punches", "count", "Punches that waited for a reader."),
    Metric("damaged_objects", "damaged_objects", "count", "Objects found damaged."),
    Metric("lost_objects", "lost_objects", "count", "Reads of objects whose file was gone."),
    Metric("repaired_objects", "repaired_objects", "count", "Rebuilt objects put back on disk."),
    Metric("io_errors", "io_errors", "count", "Reads that failed for I/O and were tried again."),
    Metric("writeback_errors", "writeback_errors", "count", "Write-backs that a disk refused."),
    Metric("refused_spills", "refused_spills", "count", "Spills that found no room."),
)
# Sums over the IO workers that run.
PENDING = (
    Metric("pending_punch_bytes", "pending_punch_bytes", "bytes", "Dead bytes soon to be punched."),
    Metric("deferred_deletes", "deferred_deletes", "count", "Deletes that wait for a disk."),
)
# The largest value of the IO workers that run.
LARGEST = (
    Metric(
        "directories_skipped",
        "directories_skipped",
        "count",
        "Directories that cannot be used now.",
    ),
    Metric(
        "fallback_directories",
        "fallback_directories",
        "count",
        "Directories whose file system lacks something, so spilling falls back there.",
    ),
)
# Attributes of SpillStat: what is on the node's disks.
ON_DISK = (
    Metric("objects", "live_objects", "count", "Objects on disk."),
    Metric("live_bytes", "live_bytes", "bytes", "Bytes of the objects on disk."),
    Metric("disk_bytes", "disk_bytes", "bytes", "Bytes that spilled data occupies on disk."),
)
CALL_BUCKETS = Metric(
    "calls", "call_seconds_bucket", "count", "Calls of Ray that took at most le seconds."
)
CALL_SECONDS = Metric("call_s", "call_seconds_sum", "s", "Seconds that calls of Ray took.")
CALLS = Metric("calls", "call_seconds_count", "count", "Calls of Ray to spill, restore or delete.")


class Disks:
    """Reads the node's spill directories now and then, in a thread of its own."""

    def __init__(self) -> None:
        self._directories: list[str] = []
        self._seen: list[SpillStat] = []
        self._next_s = 0.0
        self._thread: threading.Thread | None = None

    def seen(self, directories: list[str]) -> list[SpillStat]:
        """Return the result of the last reading, and begin another one if that was some time ago.

        Args:
            directories: this node's own directories.
        """
        self._directories = directories
        looking = self._thread is not None and self._thread.is_alive()
        if directories and not looking and time.monotonic() >= self._next_s:
            self._thread = threading.Thread(
                target=self._look, name="mantaray-spill-figures", daemon=True
            )
            self._thread.start()
        return self._seen

    def wait(self) -> None:
        """Wait until a reading in progress has ended."""
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        began_s = time.monotonic()
        self._seen = [stat_directory(directory) for directory in self._directories]
        took_s = time.monotonic() - began_s
        self._next_s = began_s + max(_LOOK_PERIOD_S, _REST_PER_LOOK * took_s)


class NodeSpilling:
    """Figures of one node."""

    def __init__(self) -> None:
        self._files = NodeFiles(
            [*(metric.told for metric in SUMS), *PER_CALL],
            [metric.told for metric in (*PENDING, *LARGEST)],
        )
        self.disks = Disks()
        self._directories: list[str] = []

    def figures(self, session_dir: str, node_id: str, proc: str = "/proc") -> list[Figure]:
        """Return the node's figures; none before an IO worker has written its counts.

        Args:
            session_dir: Ray's directory of the session.
            node_id: the node, in hex.
            proc: where the kernel shows processes.
        """
        directory = Path(session_dir, STATE_DIRECTORY, node_id)
        living, sums = self._files.read(directory, node_id, proc)
        if not living and not sums:
            return []
        for told in living:
            self._directories = told.get("directories", self._directories)
        found = [metric.figure(PREFIX, sums[metric.told]) for metric in SUMS]
        for metric in PENDING:
            found.append(metric.figure(PREFIX, sum(told[metric.told] for told in living)))
        for metric in LARGEST:
            found.append(
                metric.figure(PREFIX, max((told[metric.told] for told in living), default=0))
            )
        on_disk = self.disks.seen(self._directories)
        for metric in ON_DISK:
            found.append(metric.figure(PREFIX, sum(getattr(seen, metric.told) for seen in on_disk)))
        for operation in OPERATIONS:
            found += _of_calls(operation, sums)
        return found


def _of_calls(operation: str, sums: Any) -> list[Figure]:
    tags = {"Operation": operation}
    calls = sums[f"{operation}_calls"]
    counts = {f"{bound_s:g}": sums[class_name(operation, bound_s)] for bound_s in BOUNDS_S}
    return [
        *(
            CALL_BUCKETS.figure(PREFIX, count, {**tags, "le": bound})
            for bound, count in {**counts, "+Inf": calls}.items()
        ),
        CALL_SECONDS.figure(PREFIX, sums[f"{operation}_call_s"], tags),
        CALLS.figure(PREFIX, calls, tags),
    ]


_SPILLING = NodeSpilling()


def figures(session_dir: str, node_id: str) -> list[Figure]:
    """Return the figures of the node whose agent asks; see `NodeSpilling.figures`."""
    return _SPILLING.figures(session_dir, node_id)
