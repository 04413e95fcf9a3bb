"""What spilling does to the machine's memory: page cache, dirty pages, and the speed, for each cache mode.

A worker process spills, batch by batch, as an IO worker does; another thread looks at the kernel's
figures ten times a second. Where this user may make a memory control group (cgroup v1 or v2), the worker
runs in one and its peak is shown too: that is what a pod's limit counts. Stock Ray, and `keep`, `drop` and
`direct` take turns.

    python benchmarks/spill_cache.py [--gigabytes N] [--rounds N] [--json] [--directory DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spill_engine import BATCH_BYTES, OWNER, Ref, make_storage, on_shared_memory, shared_memory

ARMS = ("stock", "keep", "drop", "direct")
OBJECT_BYTES = 150_000
# Some virtual machines give freed memory back to their host after a while. Every arm starts after that,
# or those that run early would pay for memory that the later ones find ready.
SETTLE_S = 6.0
FIGURES = ("spill_mb_s", "dirty_peak_mb", "cache_growth_mb", "group_peak_mb")
CGROUP_HOMES = {
    Path("/sys/fs/cgroup/memory"): "memory.max_usage_in_bytes",
    Path("/sys/fs/cgroup"): "memory.peak",
}


def meminfo_mb() -> dict[str, float]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in lines}


class Watch(threading.Thread):
    """Samples dirty and cached memory until it is told to stop. All in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stop_event = threading.Event()
        self._before = meminfo_mb()
        self.dirty_peak = 0.0
        self.cache_growth = 0.0

    def run(self) -> None:
        while not self._stop_event.wait(0.1):
            now = meminfo_mb()
            dirty = now["Dirty"] + now["Writeback"] - self._before["Dirty"]
            self.dirty_peak = max(self.dirty_peak, dirty)
            self.cache_growth = max(self.cache_growth, now["Cached"] - self._before["Cached"])

    def stop(self) -> None:
        self._stop_event.set()
        self.join()


def spill(arm: str, gigabytes: float, directory: str) -> dict[str, Any]:
    """Spill so much in this process; return what was seen."""
    os.environ["MANTARAY_PATCHES"] = "-spill"
    os.environ["MANTARAY_SPILL_CACHE"] = arm if arm != "stock" else ""
    from mantaray.spill.storage import make_storage_class
    from ray._private import external_storage

    source = shared_memory(BATCH_BYTES + (1 << 20))
    plain = external_storage.FileSystemStorage
    wanted = plain if arm == "stock" else make_storage_class(external_storage)
    storage = make_storage(arm, on_shared_memory(wanted, source, source), directory, OBJECT_BYTES)
    count = BATCH_BYTES // OBJECT_BYTES
    watch = Watch()
    watch.start()
    spilled, started = 0, time.perf_counter()
    while spilled < gigabytes * 1e9:
        storage.spill_objects([Ref() for _ in range(count)], [OWNER] * count)
        spilled += count * OBJECT_BYTES
    seconds = time.perf_counter() - started
    watch.stop()
    return {
        "spill_mb_s": spilled / 1e6 / seconds,
        "dirty_peak_mb": watch.dirty_peak,
        "cache_growth_mb": watch.cache_growth,
    }


@contextlib.contextmanager
def memory_group() -> Iterator[tuple[Path, str] | None]:
    """A memory control group of its own and the name of its peak, or None where there can be none."""
    for home, peak in CGROUP_HOMES.items():
        group = home / f"mantaray-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / peak).exists():
                yield group, peak
                return
        finally:
            with contextlib.suppress(OSError):
                group.rmdir()
    yield None


def run_arm(arm: str, gigabytes: float, base: str | None) -> dict[str, Any]:
    """Run one arm in a process, a directory and, if possible, a memory group of its own."""
    with memory_group() as group, contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="mantaray-cache-", dir=base)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        join = f'echo $$ > "{group[0]}/cgroup.procs"; ' if group else ""
        command = [sys.executable, __file__, "--arm", arm, "--directory", directory]
        command += ["--gigabytes", str(gigabytes)]
        done = subprocess.run(
            ["sh", "-c", join + 'exec "$@"', "sh", *command],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        peak = int((group[0] / group[1]).read_text()) / 1e6 if group else None
    return {**result, "group_peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--directory", help="where to spill; the temporary directory by default")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(spill(arguments.arm, arguments.gigabytes, arguments.directory)))
        return
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for number in range(arguments.rounds):
        for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
            print(f"round {number + 1}, {arm}", file=sys.stderr)
            time.sleep(SETTLE_S)
            runs[arm].append(run_arm(arm, arguments.gigabytes, arguments.directory))
    rows = {
        arm: {
            figure: None
            if results[0][figure] is None
            else statistics.median(r[figure] for r in results)
            for figure in FIGURES
        }
        for arm, results in runs.items()
    }
    if arguments.json:
        print(json.dumps({"gigabytes": arguments.gigabytes, "arms": rows}))
        return
    print(
        f"{arguments.gigabytes:g} GB in objects of {OBJECT_BYTES:,} bytes, medians of {arguments.rounds}"
    )
    print(f"{'':<10}" + "".join(f"{figure:>18}" for figure in FIGURES))
    for arm, row in rows.items():
        shown = ("-" if row[figure] is None else f"{row[figure]:,.0f}" for figure in FIGURES)
        print(f"{arm:<10}" + "".join(f"{text:>18}" for text in shown))


if __name__ == "__main__":
    main()
