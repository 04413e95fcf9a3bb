"""The retention workload: many objects, one in twenty kept, then random frees, then nothing.

While the first go, somebody who takes no locks has every segment open.
"""

import random
import sys
import time

import ray
from spill_common import (
    disk_bytes,
    files,
    is_intact,
    names_below,
    payload,
    report,
    start,
    wait_until,
)

root = sys.argv[1]
paths = start(root, directories=("a", "b"), store_mb=120)
COUNT, SIZE = 600, 1_000_000
refs = {number: ray.put(payload(number, SIZE)) for number in range(COUNT)}
peak_bytes = disk_bytes(paths)
used_directories = sum(1 for path in paths if disk_bytes([path]) > 0)


def drop(numbers):
    for number in numbers:
        del refs[number]


def settled(limit_bytes):
    began = time.monotonic()
    wait_until(lambda: disk_bytes(paths) <= limit_bytes)
    took_s.append(time.monotonic() - began)
    return disk_bytes(paths) / (len(refs) * SIZE) if refs else float(disk_bytes(paths))


took_s = []
held = [open(name, "rb") for name in names_below(paths)]  # noqa: SIM115
drop([number for number in refs if number % 20])
first = settled(len(refs) * SIZE * 1.05)
for file in held:
    file.close()
drop(random.Random(1).sample(sorted(refs), len(refs) // 2))
second = settled(len(refs) * SIZE * 1.05)
intact = all(is_intact(number, ray.get(ref), SIZE) for number, ref in refs.items())
drop(list(refs))
time.sleep(1)
report(
    peak_bytes=peak_bytes,
    directories=used_directories,
    one_in_twenty=first,
    after_random_frees=second,
    intact=intact,
    in_the_end=settled(0),
    files_in_the_end=len(files(paths)),
    took_s=took_s,
)
ray.shutdown()
