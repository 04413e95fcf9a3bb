"""What a driver gets of spilled objects: read from their files where it may, restored by Ray elsewhere."""

import os
import sys

import numpy as np
import ray
from mantaray._native import spill
from mantaray.spill.direct import DirectGets
from spill_common import disk_bytes, is_intact, names_below, payload, report, start, wait_until

root = sys.argv[1]
SIZE = 1_000_000
COUNT = 300
MOST = 1200
paths = start(root, store_mb=100)


def is_spilled(ref):
    core_worker = ray._private.worker.global_worker.core_worker
    location = core_worker.get_local_object_locations([ref])[ref]
    return location["did_spill"] and not core_worker.object_exists(ref)


def read_bytes(get):
    """Return what a get returned, and how much of it came straight from files."""
    before = spill.live_spilled_bytes()
    value = get()
    return value, spill.live_spilled_bytes() - before


@ray.remote
def make(number):
    return payload(number, SIZE)


@ray.remote
def first_byte(refs):
    return int(ray.get(refs[0])[0])


inner = ray.put(payload(7, SIZE))
special = {
    "bytes": (ray.put(b"b" * SIZE), lambda value: value == b"b" * SIZE),
    "text": (ray.put("t" * SIZE), lambda value: value == "t" * SIZE),
    "nested": (
        ray.put({"ref": inner, "array": payload(8, SIZE)}),
        lambda value: (
            is_intact(8, value["array"], SIZE) and is_intact(7, ray.get(value["ref"]), SIZE)
        ),
    ),
    "floats": (
        ray.put(np.arange(SIZE / 8)),
        lambda value: bool(value.sum() == sum(range(SIZE // 8))),
    ),
    "returned": (make.remote(9), lambda value: is_intact(9, value, SIZE)),
}
ray.wait([ref for ref, _ in special.values()], num_returns=len(special), fetch_local=False)
# The raylet spills in no order, so others are put until all of these are on disk.
refs = []
while len(refs) < COUNT or (
    len(refs) < MOST and not all(is_spilled(ref) for ref, _ in special.values())
):
    refs.append(ray.put(payload(len(refs), SIZE)))

seen = {"special": {}, "wrong": [], "direct": 0, "restored": 0}
for name, (ref, is_right) in special.items():
    value, direct_bytes = read_bytes(lambda ref=ref: ray.get(ref))
    # Bytes and text are copied out of what was read, which is gone then.
    seen["special"][name] = [is_right(value), direct_bytes > 0]
    if name == "floats":
        seen["flags"] = [value.flags.aligned, value.flags.writeable, value.ctypes.data % 64]
    del value
for number in np.random.default_rng(0).permutation(COUNT):
    was_spilled = is_spilled(refs[number])
    value, direct_bytes = read_bytes(lambda number=number: ray.get(refs[number]))
    if not is_intact(number, value, SIZE):
        seen["wrong"].append(int(number))
    seen["direct" if direct_bytes else "restored"] += was_spilled
    del value
seen["left_live"] = spill.live_spilled_bytes()
seen["list"] = all(is_intact(n, v, SIZE) for n, v in enumerate(ray.get(refs[:30], timeout=100)))
seen["borrower"] = bool(ray.get(first_byte.remote([refs[0]])) == payload(0, SIZE)[0])

# Whatever goes wrong in Mantaray's code, Ray gets the object.
working, DirectGets.read = DirectGets.read, None
seen["without_us"] = is_intact(1, ray.get(refs[1], timeout=100), SIZE)
DirectGets.read = working

# One damaged object: the driver asks Ray, whose IO worker finds the damage and tells the owner.
victim = next(number for number, ref in enumerate(refs) if is_spilled(ref))
for link in names_below(paths):
    if os.path.basename(link).startswith(refs[victim].hex() + "."):
        with open(link, "r+b") as file:
            at = int(os.path.basename(link).split(".")[1], 16) + SIZE // 2
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
try:
    ray.get(refs[victim], timeout=100)
    seen["damaged"] = "a value"
except ray.exceptions.ObjectLostError:
    seen["damaged"] = "lost"

# What was read outlives its object, and its blocks do not.
kept = next(number for number, ref in enumerate(refs) if number != victim and is_spilled(ref))
value = ray.get(refs[kept])
refs.clear()
special.clear()
del inner, ref
seen["emptied"] = wait_until(lambda: disk_bytes(paths) == 0)
seen["outlives"] = is_intact(kept, value, SIZE)
ray.shutdown()
report(**seen)
