"""Two raylets: objects whose spilled copies are damaged or gone are pulled by the other node.

Prints what a reader on the other node gets, and how often the task ran whose result was spoilt. It
finds objects in files by their bytes, so it works with stock Ray, too.
"""

import glob
import mmap
import os
import sys
import time

import numpy as np
import ray
from spill_common import names_below, payload, report, wait_until

directory, root, patience_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
SIZE = 1_000_000
ray.init(log_to_driver=False)


@ray.remote(num_cpus=0, resources={"first": 0.001}, max_retries=3)
def make(number):
    with open(os.path.join(root, f"runs-{number}"), "a") as file:
        file.write("x")
    return payload(number, SIZE)


@ray.remote(num_cpus=0, resources={"first": 0.001})
class Holder:
    """Owns the objects that were put, on the node that spills them."""

    def __init__(self):
        self.refs = []

    def put(self, numbers):
        self.refs += [ray.put(payload(number, SIZE)) for number in numbers]
        return [[ref] for ref in self.refs[-len(numbers) :]]

    def push_out(self):
        """Fill memory, so that what there is goes to disk."""
        filler = [ray.put(np.zeros(10_000_000, np.uint8)) for _ in range(12)]
        del filler


@ray.remote(num_cpus=0, resources={"second": 0.001}, max_retries=0)
def read(boxed, number):
    """Pull the object to this node; return how it compares."""
    try:
        value = ray.get(boxed[0], timeout=patience_s)
    except ray.exceptions.GetTimeoutError:
        return "hangs"
    except ray.exceptions.ObjectLostError:
        return "lost"
    except Exception as error:
        return type(error).__name__
    return "same" if (value == payload(number, SIZE)).all() else "different"


def places(number, ref):
    """(path, offset) of an object's payload in each file of spilled data that has it."""
    begin = bytes(payload(number, SIZE)[:64])
    names = names_below([directory])
    # Mantaray names the object; of other files each is searched once.
    own = [path for path in names if ref.hex() in path]
    found = []
    for path in own or names:
        start = int(os.path.basename(path).split(".")[1], 16) if own else 0
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                at = data.find(begin, start)
        except FileNotFoundError:
            continue  # Deleted meanwhile.
        if at >= 0:
            found.append((path, at))
    return found


def flip(number, ref):
    path, at = places(number, ref)[0]
    with open(path, "r+b") as file:
        file.seek(at + SIZE // 2)
        byte = file.read(1)[0]
        file.seek(at + SIZE // 2)
        file.write(bytes([byte ^ 0x40]))


def remove(number, ref):
    os.unlink(places(number, ref)[0][0])


def runs(number):
    return len(open(glob.glob(os.path.join(root, f"runs-{number}"))[0]).read())


holder = Holder.remote()
numbers = {"flipped_put": 0, "flipped_result": 1, "removed_put": 2, "removed_result": 3, "sound": 4}
boxes = {}
# In turns, so that with stock Ray a removed file takes no other object with it.
for kind in ("flipped_put", "flipped_result", "sound", "removed_put", "removed_result"):
    number = numbers[kind]
    if kind.endswith("result"):
        ref = make.remote(number)
        ray.wait([ref], timeout=120, fetch_local=False)
        boxes[kind] = [ref]
    else:
        (boxes[kind],) = ray.get(holder.put.remote([number]))
    wait_until(
        lambda kind=kind, number=number: (
            ray.get(holder.push_out.remote()) or bool(places(number, boxes[kind][0]))
        )
    )
ray.get(holder.push_out.remote())
for kind, spoil in {"flipped": flip, "removed": remove}.items():
    for what in ("put", "result"):
        name = f"{kind}_{what}"
        spoil(numbers[name], boxes[name][0])
outcomes, took_s = {}, {}
for name, number in numbers.items():
    began_s = time.monotonic()
    outcomes[name] = ray.get(read.remote(boxes[name], number), timeout=patience_s + 120)
    took_s[name] = round(time.monotonic() - began_s, 1)
report(
    outcomes=outcomes,
    took_s=took_s,
    runs={name: runs(number) for name, number in numbers.items() if name.endswith("result")},
    nodes_alive=sum(node["Alive"] for node in ray.nodes()),
)
ray.shutdown()
