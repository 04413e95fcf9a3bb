"""One job through an object store of a given size; prints what was seen as JSON.

Used by shuffle.py. The jobs are in out_of_core_jobs.py. Every row holds its own number, so the driver can
tell whether the data came back right.

    python benchmarks/shuffle_workload.py KIND GIGABYTES STORE_GIGABYTES BLOCKS DIRECTORY
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import ray
from mantaray.spill.stat import stat_directory
from out_of_core_jobs import INT_BYTES, JOBS, start_cluster

SETTLE_S = 4.0
SAMPLE_S = 0.25
# Five seconds.
SPAN_SAMPLES = 20


class DiskWatch(threading.Thread):
    """Samples what a directory takes on the disk, four times a second.

    Where Mantaray spills, it also samples the sizes of the spilled objects, which their links name.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._stop_event = threading.Event()
        self._samples: list[tuple[int, int]] = []

    @property
    def peak_bytes(self) -> int:
        return max((used for used, _ in self._samples), default=0)

    def most_for_each_live_byte(self, least_bytes: float) -> float | None:
        """Return the largest disk use for each live byte, over any five seconds; None without live bytes.

        Args:
            least_bytes: spans with fewer live bytes on the disk do not count.
        """
        spans = zip(*(self._samples[first:] for first in range(SPAN_SAMPLES)), strict=False)
        sums = [(sum(used for used, _ in span), sum(live for _, live in span)) for span in spans]
        shares = [used / live for used, live in sums if live > least_bytes * SPAN_SAMPLES]
        return max(shares, default=None)

    def used_bytes(self) -> int:
        said = subprocess.run(
            ["du", "-s", "-B1", self._directory], capture_output=True, text=True, check=False
        ).stdout
        return int(said.split()[0]) if said else 0

    def run(self) -> None:
        while not self._stop_event.wait(SAMPLE_S):
            self._samples.append((self.used_bytes(), live_bytes(self._directory)))

    def stop(self) -> None:
        self._stop_event.set()
        self.join()


def live_bytes(directory: str) -> int:
    """Return the sizes of all objects that Mantaray keeps below a directory; 0 on stock Ray."""
    return 0 if os.environ.get("MANTARAY_DISABLE") else stat_directory(directory).live_bytes


def main() -> None:
    kind, gigabytes, store_gigabytes, blocks, directory = sys.argv[1:]
    job = JOBS[kind]
    start_cluster(int(float(store_gigabytes) * 1e9), directory, nodes=job.nodes)
    watch = DiskWatch(directory)
    watch.start()
    rows = int(float(gigabytes) * 1e9) // (job.row_ints * INT_BYTES)
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
        "most_disk_for_each_live_byte": watch.most_for_each_live_byte(
            float(store_gigabytes) * 1e9 / 2
        ),
        "after_disk_mb": watch.used_bytes() / 1e6,
    }
    ray.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
