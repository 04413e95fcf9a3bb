"""One job through an object store of a given size; prints what was seen as JSON.

Used by shuffle.py. The jobs are in out_of_core_jobs.py. Every row holds its own number, so the driver can
tell whether the data came back right.

    python benchmarks/shuffle_workload.py KIND GIGABYTES STORE_GIGABYTES BLOCKS DIRECTORY
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import ray
from out_of_core_jobs import JOBS, ROW_BYTES, start_cluster

SETTLE_S = 4.0


class DiskWatch(threading.Thread):
    """Samples what a directory takes on the disk, four times a second."""

    def __init__(self, directory: str) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._stop_event = threading.Event()
        self.peak_bytes = 0

    def used_bytes(self) -> int:
        said = subprocess.run(
            ["du", "-s", "-B1", self._directory], capture_output=True, text=True, check=False
        ).stdout
        return int(said.split()[0]) if said else 0

    def run(self) -> None:
        while not self._stop_event.wait(0.25):
            self.peak_bytes = max(self.peak_bytes, self.used_bytes())

    def stop(self) -> None:
        self._stop_event.set()
        self.join()


def main() -> None:
    kind, gigabytes, store_gigabytes, blocks, directory = sys.argv[1:]
    job = JOBS[kind]
    start_cluster(int(float(store_gigabytes) * 1e9), directory, nodes=job.nodes)
    watch = DiskWatch(directory)
    watch.start()
    rows = int(float(gigabytes) * 1e9) // ROW_BYTES
    count = total = 0
    started = time.perf_counter()
    for column in job.run(rows, int(blocks)):
        if column is None:  # What comes before is not measured.
            started = time.perf_counter()
            continue
        count += len(column)
        total += int(column.sum())
    seconds = time.perf_counter() - started
    del column
    time.sleep(SETTLE_S)
    watch.stop()
    found = {
        "ray": ray.__version__,
        "seconds": seconds,
        "verified": count == job.passes * rows and total == job.passes * rows * (rows - 1) // 2,
        "peak_disk_mb": watch.peak_bytes / 1e6,
        "after_disk_mb": watch.used_bytes() / 1e6,
    }
    ray.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
