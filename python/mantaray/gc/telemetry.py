"""What a collector tells: Ray's metrics, and a small file in the session's directory.

The file is what `mantaray gc stat` reads. Nobody has to be asked for it, so looking disturbs no process:
it is there when one of them hangs, too.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from mantaray.gc.model import Collection, Counts

_LOG = logging.getLogger(__name__)
DIRECTORY = "mantaray-gc"
WRITE_PERIOD_S = 0.5
_BOUNDARIES_MS = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000]


class StateFile:
    """The state of this process, for others to read.

    Args:
        session_dir: Ray's directory of the session.
        is_driver: whether this process is a driver.
    """

    def __init__(self, session_dir: str, is_driver: bool) -> None:
        self.path = Path(session_dir, DIRECTORY, f"{os.getpid()}.json")
        self._about = {
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "driver": is_driver,
        }
        self._written: tuple[dict[str, float], str] | None = None
        self._written_at = -WRITE_PERIOD_S

    def update(self, counts: Counts, state: str, last: Collection | None) -> bool:
        """Write what has changed, not too often; return whether something is left to write.

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
        self.path.parent.mkdir(exist_ok=True)
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(content))
        os.replace(partial, self.path)
        return False

    def remove(self) -> None:
        """Remove the file of a process that ends."""
        self.path.unlink(missing_ok=True)


def start_ticks(pid: int, proc: str = "/proc") -> int:
    """Return when a process started, in clock ticks since boot; it tells two of one id apart.

    Args:
        pid: its id.
        proc: where the kernel shows processes.

    Raises:
        OSError: there is no such process.
    """
    stat = Path(proc, str(pid), "stat").read_text(errors="replace")
    # The name in brackets may hold anything.
    return int(stat.rpartition(")")[2].split()[19])


class Metrics:
    """The collector's figures as metrics of Ray, made at first use."""

    def __init__(self) -> None:
        self._made: dict[str, Any] | None = None
        self._told = Counts()

    def tell(self, collections: list[Collection], counts: Counts) -> None:
        """Record what has happened since the last call.

        Args:
            collections: those that have run since.
            counts: all so far.
        """
        made = self._made = self._made or _make()
        for done in collections:
            tags = {"kind": done.kind.value}
            made["pauses"].observe(done.pause_s * 1_000, tags=tags)
            made["collections"].inc(1, tags={**tags, "why": done.why})
            if done.objects:
                made["objects"].inc(done.objects, tags=tags)
        new = counts.as_dict()
        old = self._told.as_dict()
        for name in ("automatic_freezes", "failed_searches"):
            if new[name] > old[name]:
                made[name].inc(new[name] - old[name])
        if new["coalesced"] > old["coalesced"]:
            made["coalesced"].inc(new["coalesced"] - old["coalesced"])
        self._told = Counts(**new)  # type: ignore[arg-type]


def _make() -> dict[str, Any]:
    from ray.util.metrics import Counter, Histogram

    return {
        "pauses": Histogram(
            "mantaray_gc_pause_ms",
            description="How long a garbage collection stopped the process, in milliseconds.",
            boundaries=_BOUNDARIES_MS,
            tag_keys=("kind",),
        ),
        "collections": Counter(
            "mantaray_gc_collections",
            description="Garbage collections that Ray asked for, by kind and cause.",
            tag_keys=("kind", "why"),
        ),
        "objects": Counter(
            "mantaray_gc_objects_freed",
            description="Unreachable objects that these collections found.",
            tag_keys=("kind",),
        ),
        "coalesced": Counter(
            "mantaray_gc_triggers_coalesced",
            description="Triggers that were answered together with an earlier one.",
        ),
        "automatic_freezes": Counter(
            "mantaray_gc_automatic_freezes",
            description="Automatic collections of a large heap that were made short by freezing it.",
        ),
        "failed_searches": Counter(
            "mantaray_gc_failed_searches",
            description="Searches for garbage that did not come to an end.",
        ),
    }
