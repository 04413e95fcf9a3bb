"""Two raylets: objects spilled on one are pulled by the other while they and their neighbours are freed.

Every segment holds, in turn, objects that are

- kept: pulled and compared;
- gone: freed by their owner without anybody reading them, all the while that the others are pulled;
- left: pulled by a reader that loses interest after a moment, which was the last to need them;
- last: pulled and compared by a reader that is, meanwhile, the last to refer to the object.

Prints how often what was read, and what is on disk in the end.
"""

import random
import sys
import threading
import time
from collections import Counter

import numpy as np
import ray
from spill_common import disk_bytes, files, payload, report, wait_until

directory, rounds, size_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
COUNT = 48
PATIENCE_S = 120
ray.init(log_to_driver=False)


@ray.remote(num_cpus=0, resources={"first": 0.001})
class Holder:
    """Owns the objects, on the node that spills them."""

    def __init__(self):
        self.refs = {}

    def fill(self, numbers):
        """Put the objects, then others until all of them have been pushed out of memory."""
        for number in numbers:
            self.refs[number] = ray.put(payload(number, size_bytes))
        filler = [ray.put(np.ones(size_bytes, np.uint8)) for _ in range(120_000_000 // size_bytes)]
        del filler

    def lend(self, numbers):
        return [[self.refs[number]] for number in numbers]

    def drop(self, numbers):
        for number in numbers:
            del self.refs[number]


@ray.remote(num_cpus=0, resources={"second": 0.001}, max_retries=0)
def read(boxed, number):
    """Pull the object to this node; return how it compares."""
    try:
        value = ray.get(boxed[0], timeout=PATIENCE_S)
    except ray.exceptions.GetTimeoutError:
        return "hangs"
    except ray.exceptions.ObjectLostError:
        return "error"
    expected = payload(number, size_bytes)
    if value.nbytes != expected.nbytes:
        return "different size"
    differing = value[value != expected]
    return "different" if differing.any() else "zeros" if differing.size else "same"


@ray.remote(num_cpus=0, resources={"second": 0.001}, max_retries=0)
def glance(boxed):
    """Begin to pull the object, and lose interest."""
    ray.wait(boxed, timeout=0.02, fetch_local=True)
    return "left"


def one_round(holder, first, chance):
    """Return how often what was read, and the size of the largest segment while all of it lived."""
    numbers = list(range(first, first + COUNT))
    ray.get(holder.fill.remote(numbers), timeout=PATIENCE_S)
    sizes = [size for _, size, links in files([directory]).values() if links > 1]
    kept, gone, left, last = (numbers[part::4] for part in range(4))

    def drop_gone():
        for number in chance.sample(gone, len(gone)):
            ray.get(holder.drop.remote([number]))
            time.sleep(0.02)

    def start_reads(group):
        """Start them; beside the owner they alone refer to the objects."""
        boxes = ray.get(holder.lend.remote(group))
        return [read.remote(box, n) for n, box in zip(group, boxes, strict=True)]

    thread = threading.Thread(target=drop_gone)
    thread.start()
    tasks = {
        "kept": start_reads(kept),
        "left": [glance.remote(box) for box in ray.get(holder.lend.remote(left))],
        "last": start_reads(last),
    }
    ray.get(holder.drop.remote(left + last))
    thread.join()
    found = Counter()
    for name, group in tasks.items():
        found.update(f"{name}: {outcome}" for outcome in ray.get(group, timeout=2 * PATIENCE_S))
    ray.get(holder.drop.remote(kept))
    return found, max(sizes, default=0)


began = time.monotonic()
holder = Holder.remote()
chance, counts, largest_segment = random.Random(7), Counter(), 0
for number in range(rounds):
    found, largest = one_round(holder, number * COUNT, chance)
    counts += found
    largest_segment = max(largest_segment, largest)
emptied = wait_until(lambda: disk_bytes([directory]) == 0)
left_bytes = disk_bytes([directory])
took_s = round(time.monotonic() - began, 1)
ray.shutdown()
report(
    counts=counts,
    largest_segment=largest_segment,
    emptied=emptied,
    left_bytes=left_bytes,
    took_s=took_s,
)
