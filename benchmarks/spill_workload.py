"""The workload that the demo and the cluster benchmark run, once for each arm, in a process of its own.

Fills the object store once (nothing spills), goes on putting until it has overflowed several times, reads
a part of it back, drops all but one object in twenty, waits until the disk has settled, and checks what is
left. Only the puts that spill are timed as such; those that fill the store are the ceiling, the pace of
puts that never wait for a disk. Progress goes to stderr, one line of JSON to stdout.

    python benchmarks/spill_workload.py DIRECTORY OBJECTS OBJECT_BYTES
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

KEEP_EVERY = 20
STORE_BYTES = 200_000_000
# Ray begins to spill when the store is fuller than this.
SPILLING_THRESHOLD = 0.8
SETTLE_TIMEOUT_S = 25.0


def disk_state(directory: str) -> tuple[int, int]:
    """Return (files, bytes on disk) below the directory, every file counted once."""
    seen: dict[int, int] = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                info = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            # An owner's record and a worker's mark are bookkeeping, not spilled objects.
            if info.st_size >= 4096:
                seen[info.st_ino] = info.st_blocks * 512
    return len(seen), sum(seen.values())


def settle(directory: str) -> tuple[int, int]:
    """Wait until the disk use has not changed for a while."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    last, since = disk_state(directory), time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < 5.0:
        time.sleep(0.25)
        now = disk_state(directory)
        if now != last:
            last, since = now, time.monotonic()
    return last


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Puts:
    """Puts objects that differ in their first eight bytes."""

    def __init__(self, size_bytes: int) -> None:
        import numpy as np

        self.base = np.random.default_rng(0).integers(0, 256, size_bytes, dtype=np.uint8)
        self.refs: list[Any] = []

    def put(self, count: int) -> float:
        """Put so many more; return megabytes a second."""
        import ray

        started = time.perf_counter()
        for number in range(len(self.refs), len(self.refs) + count):
            self.base[:8] = memoryview(number.to_bytes(8, "little"))
            self.refs.append(ray.put(self.base))
        megabytes: float = count * self.base.nbytes / 1e6
        return megabytes / (time.perf_counter() - started)

    def is_intact(self, number: int, value: Any) -> bool:
        """Whether a value is what was put as this number."""
        same_number = int.from_bytes(bytes(value[:8]), "little") == number
        return same_number and bool((value[8:] == self.base[8:]).all())


def main() -> None:
    directory, count, size_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=STORE_BYTES,
        object_spilling_directory=directory,
        include_dashboard=False,
        log_to_driver=False,
    )
    puts = Puts(size_bytes)
    fitting = min(count // 2, int(STORE_BYTES * SPILLING_THRESHOLD * 0.9) // size_bytes)
    # Once without measuring: the store's memory is new to the machine.
    puts.put(fitting)
    puts.refs.clear()
    time.sleep(1)
    say("  putting ...")
    ceiling_mb_s = puts.put(fitting)
    spill_mb_s = puts.put(count - fitting)
    say(f"  {count * size_bytes / 1e6:.0f} MB put; reading back ...")
    read = puts.refs[: count // 3]
    started = time.perf_counter()
    for ref in read:
        ray.get(ref)
    restore_mb_s = len(read) * size_bytes / 1e6 / (time.perf_counter() - started)
    say(f"  dropping all but one object in {KEEP_EVERY}; waiting for the disk ...")
    kept = {number: puts.refs[number] for number in range(0, count, KEEP_EVERY)}
    puts.refs.clear()
    del read, ref
    files, disk_bytes = settle(directory)
    live_bytes = len(kept) * size_bytes
    print(
        json.dumps(
            {
                "ray": ray.__version__,
                "live_bytes": live_bytes,
                "disk_bytes": disk_bytes,
                "amplification": disk_bytes / live_bytes,
                "files": files,
                "ceiling_mb_s": ceiling_mb_s,
                "spill_mb_s": spill_mb_s,
                "restore_mb_s": restore_mb_s,
                "verified": all(puts.is_intact(n, ray.get(ref)) for n, ref in kept.items()),
            }
        )
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
