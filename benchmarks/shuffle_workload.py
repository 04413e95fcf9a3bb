"""One shuffle through an object store of a given size; prints what was seen as JSON.

Used by shuffle.py. Two kinds, both over the same amount of data:

- `tasks`: each map task cuts a block of rows into one part for each reducer, and each reducer puts its
  parts together. The driver then reads every block once. Plain Ray tasks, which need NumPy alone.
- `data`: `random_shuffle` of Ray Data and one pass over the result. It needs pandas and pyarrow.

Every row holds its own number, so the driver can tell whether the data came back right.

    python benchmarks/shuffle_workload.py KIND GIGABYTES STORE_GIGABYTES BLOCKS DIRECTORY
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray

ROW_INTS = 128
ROW_BYTES = ROW_INTS * 8
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


def make_rows(first: int, count: int) -> Any:
    rows = np.empty((count, ROW_INTS), dtype=np.int64)
    rows[:] = np.arange(first, first + count, dtype=np.int64)[:, None]
    return rows


def shuffle_by_tasks(rows: int, blocks: int) -> Iterator[Any]:
    """Yield the first column of each shuffled block."""
    bounds = np.linspace(0, rows, blocks + 1).astype(int)

    def cut(number: int) -> Any:
        first, last = int(bounds[number]), int(bounds[number + 1])
        block = make_rows(first, last - first)
        order = np.random.default_rng(number).permutation(len(block))
        parts = [block[chosen] for chosen in np.array_split(order, blocks)]
        return parts if blocks > 1 else parts[0]

    def join(number: int, *parts: Any) -> Any:
        block = np.concatenate(parts)
        return block[np.random.default_rng(number).permutation(len(block))]

    cut_task, join_task = ray.remote(num_returns=blocks)(cut), ray.remote(join)
    cuts = [cut_task.remote(number) for number in range(blocks)]
    # A single return value comes as a bare reference.
    cuts = [parts if isinstance(parts, list) else [parts] for parts in cuts]
    joined = [
        join_task.remote(number, *(parts[number] for parts in cuts)) for number in range(blocks)
    ]
    del cuts
    joined.reverse()
    while joined:
        yield ray.get(joined.pop())[:, 0]


def shuffle_by_ray_data(rows: int, blocks: int) -> Iterator[Any]:
    """Yield the first column of each batch of the shuffled dataset."""
    logging.getLogger("ray.data").setLevel("ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.range_tensor(rows, shape=(ROW_INTS,), override_num_blocks=blocks)
    for batch in dataset.random_shuffle().iter_batches(batch_size=4096, batch_format="numpy"):
        yield batch["data"][:, 0]


def main() -> None:
    kind, gigabytes, store_gigabytes, blocks, directory = sys.argv[1:]
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=int(float(store_gigabytes) * 1e9),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_spilling_directory=directory,
    )
    watch = DiskWatch(directory)
    watch.start()
    rows = int(float(gigabytes) * 1e9) // ROW_BYTES
    count = total = 0
    started = time.perf_counter()
    shuffle = shuffle_by_ray_data if kind == "data" else shuffle_by_tasks
    for column in shuffle(rows, int(blocks)):
        count += len(column)
        total += int(column.sum())
    seconds = time.perf_counter() - started
    del column
    time.sleep(SETTLE_S)
    watch.stop()
    found = {
        "ray": ray.__version__,
        "seconds": seconds,
        "verified": count == rows and total == rows * (rows - 1) // 2,
        "peak_disk_mb": watch.peak_bytes / 1e6,
        "after_disk_mb": watch.used_bytes() / 1e6,
    }
    ray.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
