"""What a call that goes through a function of Mantaray's costs more, on the slots of a live Ray.

A driver adds references to 50,000 objects that nobody has, and removes them. Each removal calls two
methods whose slots the guard for outer objects replaces: `DeleteReferenceInternal` and `EraseReference`.
The same process does this with the guard attached and taken back, in turns, so that nothing else differs.
Adding calls no replaced method and is there for comparison. The times are of the thread's processor.

    .venvs/ray-2.60.0/bin/python benchmarks/interposed_calls.py [--turns 15] [--save FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import ray
import ray._raylet
from mantaray._native import interpose

OBJECTS = 50_000
# Of each removal.
CALLS = 2
MOST_NS = 50.0


def turn(core: Any) -> tuple[float, float]:
    """Add and remove references; return the nanoseconds that one of each took."""
    ids = [os.urandom(28) for _ in range(OBJECTS)]
    refs = [ray.ObjectRef(each, skip_adding_local_ref=True) for each in ids]
    begin = time.thread_time_ns()
    for ref in refs:
        core.add_object_ref_reference(ref)
    added = time.thread_time_ns()
    for ref in refs:
        core.remove_object_ref_reference(ref)
    removed = time.thread_time_ns()
    return (added - begin) / OBJECTS, (removed - added) / OBJECTS


def measure(turns: int) -> dict[str, float]:
    """Return the medians of a removal and an addition with and without the guard, in nanoseconds."""
    library = ray._raylet.__file__
    core = ray._private.worker.global_worker.core_worker
    seen: dict[str, list[tuple[float, float]]] = {"loaded": [], "replaced": []}
    # The patch has attached it when Ray was imported.
    interpose.detach_nesting_guard()
    turn(core)
    for _ in range(turns):
        seen["loaded"].append(turn(core))
        interpose.attach_nesting_guard(library)
        seen["replaced"].append(turn(core))
        interpose.detach_nesting_guard()
    figures = {}
    for arm, rows in seen.items():
        figures[f"add.{arm}_ns"] = statistics.median(added for added, _ in rows)
        figures[f"remove.{arm}_ns"] = statistics.median(removed for _, removed in rows)
    # Of turns that follow each other, so that a machine that slows down in between counts for both.
    figures["call_ns"] = statistics.median(
        (replaced[1] - loaded[1]) / CALLS
        for loaded, replaced in zip(seen["loaded"], seen["replaced"], strict=True)
    )
    return figures


def main() -> int:
    """Print the figures; return 0 if a replaced call costs less than the target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--save", type=Path, help="write the figures into a file")
    options = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
    )
    figures = measure(options.turns)
    ray.shutdown()
    result = {
        "benchmark": "interposed_calls",
        "date": time.strftime("%Y-%m-%d"),
        "ray": ray.__version__,
        "turns": options.turns,
        "figures": {name: round(value, 1) for name, value in figures.items()},
    }
    if options.save is not None:
        options.save.write_text(json.dumps(result, indent=2) + "\n")
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in figures.items():
            print(f"{name:<22}{value:9.1f}")
        print(f"target: call_ns under {MOST_NS:.0f}")
    return 0 if figures["call_ns"] < MOST_NS else 1


if __name__ == "__main__":
    sys.exit(main())
