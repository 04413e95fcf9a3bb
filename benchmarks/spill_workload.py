"""The workload that the demo and the cluster benchmark run, once for each arm, in a process of its own.

Puts objects until the store overflows several times, reads a part of them back, drops all but one in
twenty, waits until the disk has settled, and checks what is left. Progress goes to stderr, one line of
JSON to stdout.

    python benchmarks/spill_workload.py DIRECTORY OBJECTS OBJECT_BYTES
"""

from __future__ import annotations

import json
import os
import sys
import time

KEEP_EVERY = 20
STORE_BYTES = 200_000_000
SETTLE_TIMEOUT_S = 25.0


def disk_state(directory: str) -> tuple[int, int]:
    """Return (files, bytes on disk) below the directory, every file counted once."""
    seen: dict[int, int] = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            if name in ("owner", "alive"):
                continue
            try:
                info = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            seen[info.st_ino] = info.st_blocks * 512
    return len(seen), sum(seen.values())


def settle(directory: str) -> tuple[int, int]:
    """Wait until the disk use has not changed for a while."""
    deadline, last, since = (
        time.monotonic() + SETTLE_TIMEOUT_S,
        disk_state(directory),
        time.monotonic(),
    )
    while time.monotonic() < deadline and time.monotonic() - since < 5.0:
        time.sleep(0.25)
        now = disk_state(directory)
        if now != last:
            last, since = now, time.monotonic()
    return last


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    directory, count, size_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    import numpy as np
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=STORE_BYTES,
        object_spilling_directory=directory,
        include_dashboard=False,
        log_to_driver=False,
    )
    say("  putting ...")
    base = np.random.default_rng(0).integers(0, 256, size_bytes, dtype=np.uint8)
    refs = []
    started = time.perf_counter()
    for number in range(count):
        base[:8] = np.frombuffer(number.to_bytes(8, "little"), dtype=np.uint8)
        refs.append(ray.put(base))
    put_s = time.perf_counter() - started
    total_bytes = count * size_bytes
    say(f"  {total_bytes / 1e6:.0f} MB put in {put_s:.1f} s; reading back ...")
    read = refs[: count // 3]
    started = time.perf_counter()
    for ref in read:
        ray.get(ref)
    restore_s = time.perf_counter() - started
    say(f"  dropping all but one object in {KEEP_EVERY}; waiting for the disk ...")
    kept = {number: refs[number] for number in range(0, count, KEEP_EVERY)}
    del refs, read, ref
    files, disk_bytes = settle(directory)
    verified = all(
        int.from_bytes(bytes(value[:8]), "little") == number and bool((value[8:] == base[8:]).all())
        for number, value in ((number, ray.get(ref)) for number, ref in kept.items())
    )
    live_bytes = len(kept) * size_bytes
    print(
        json.dumps(
            {
                "ray": ray.__version__,
                "live_bytes": live_bytes,
                "disk_bytes": disk_bytes,
                "amplification": disk_bytes / live_bytes,
                "files": files,
                "spill_mb_s": total_bytes / 1e6 / put_s,
                "restore_mb_s": count // 3 * size_bytes / 1e6 / restore_s,
                "verified": verified,
            }
        )
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
