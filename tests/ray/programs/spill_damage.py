"""Flips bits in spilled objects: one that can be rebuilt, ones that cannot, small and large."""

import os
import sys

import numpy as np
import ray
from spill_common import names_below, report, start, wait_until

root = sys.argv[1]
paths = start(root, store_mb=100)
SIZES = {"small": 1_000_000, "large": 9_000_000}


@ray.remote(max_retries=3)
def make(number, size_bytes):
    return np.full(size_bytes, number, dtype=np.uint8)


def link_of(ref):
    """The link of a spilled object, or None."""
    for name in names_below(paths):
        if os.path.basename(name).startswith(ref.hex() + "."):
            return name
    return None


def wait_until_put_back(ref):
    return wait_until(lambda: link_of(ref) is not None and not link_of(ref).endswith(".damaged"))


def flip(ref, at):
    link = link_of(ref)
    offset = int(os.path.basename(link).split(".")[1], 16)
    with open(link, "r+b") as file:
        file.seek(offset + at)
        byte = file.read(1)[0]
        file.seek(offset + at)
        file.write(bytes([byte ^ 0x40]))


def spill_out(refs):
    """Push the objects out of the store: spilled, and no copy left in memory."""
    filler = []
    ok = wait_until(
        lambda: (
            filler.append(ray.put(np.zeros(10_000_000, np.uint8))) or all(link_of(r) for r in refs)
        )
    )
    filler += [ray.put(np.zeros(10_000_000, np.uint8)) for _ in range(12)]
    return ok, filler


def get(ref):
    try:
        value = ray.get(ref, timeout=150)
        return ["value", int(value[0]), int(value[-1]), bool((value == value[0]).all())]
    except Exception as error:
        return ["error", type(error).__name__, isinstance(error, ray.exceptions.ObjectLostError)]


results = {}
for name, size_bytes in SIZES.items():
    rebuilt = make.remote(7, size_bytes)
    put = ray.put(np.full(size_bytes, 8, np.uint8))
    healthy = ray.put(np.full(size_bytes, 9, np.uint8))
    ray.wait([rebuilt], timeout=150)
    spilled, filler = spill_out([rebuilt, put, healthy])
    assert spilled, names_below(paths)
    flip(rebuilt, size_bytes // 2)
    flip(put, size_bytes // 2)
    del filler
    results[name] = {"rebuilt": get(rebuilt), "put": get(put), "healthy": get(healthy)}
    # The rebuilt copy is on disk again, so that leaving memory costs no other run of the task.
    results[name]["put_back"] = wait_until_put_back(rebuilt)
report(**results)
ray.shutdown()
