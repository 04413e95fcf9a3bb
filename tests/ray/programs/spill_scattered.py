"""Deletes one object from each of many segments in turn and watches the disk all the while.

Prints the largest proportion of the disk in use to the bytes that were live five seconds before.
"""

import sys
import threading
import time

import numpy as np
import ray
from spill_common import disk_bytes, files, report, start, wait_until

root = sys.argv[1]
SIZE = 200_000
PER_SEGMENT = 19
COUNT = 1_000 * PER_SEGMENT
LOAD_S = 30
WINDOW_S = 5
segment_bytes = 4_000_000
bounds = {"max_spilling_file_size_bytes": segment_bytes, "min_spilling_size": segment_bytes}
paths = start(root, store_mb=200, **bounds)
one = np.zeros(SIZE, np.uint8)
refs = [ray.put(one) for _ in range(COUNT)]  # Neighbours share a segment.
segments = len(files(paths))
order = [number for first in range(PER_SEGMENT) for number in range(first, COUNT, PER_SEGMENT)]
order = order[: COUNT * 4 // 5]
live = [(time.monotonic(), COUNT * SIZE)]
ratios = []
done = threading.Event()


def watch():
    while not done.wait(0.5):
        now_s = time.monotonic()
        before = [size for then_s, size in list(live) if then_s <= now_s - WINDOW_S]
        if before:
            ratios.append(disk_bytes(paths) / before[-1])


watcher = threading.Thread(target=watch)
watcher.start()
began_s = time.monotonic()
for number, index in enumerate(order):
    refs[index] = None
    if number % 100 == 0:
        live.append((time.monotonic(), (COUNT - number) * SIZE))
        time.sleep(max(0, began_s + LOAD_S * number / len(order) - time.monotonic()))
took_s = time.monotonic() - began_s
done.set()
watcher.join()
live_bytes = (COUNT - len(order)) * SIZE
follows = wait_until(lambda: disk_bytes(paths) <= 1.1 * live_bytes)
refs.clear()
emptied = wait_until(lambda: disk_bytes(paths) == 0)
report(
    segments=segments,
    looks=len(ratios),
    largest=round(max(ratios), 3),
    took_s=round(took_s, 1),
    follows=follows,
    emptied=emptied,
)
ray.shutdown()
