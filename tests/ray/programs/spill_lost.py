"""Loses spilled objects in several ways and counts what that costs.

Results of tasks are made again, once for each loss, and are spilled again like any object. Objects
that were put give an ObjectLostError.
"""

import glob
import os
import shutil
import sys
import time

import numpy as np
import ray
from spill_common import report, start, wait_until

root = sys.argv[1]
(spill_directory,) = start(root, store_mb=100)
SMALL, LARGE = 1_000_000, 9_000_000


@ray.remote(max_retries=3)
def make(name, size_bytes):
    with open(os.path.join(root, "runs-" + name), "a") as file:
        file.write("x")
    return np.full(size_bytes, 7, dtype=np.uint8)


def runs(name):
    return os.path.getsize(os.path.join(root, "runs-" + name))


def links(ref):
    found = glob.glob(f"{spill_directory}/ray_spilled_objects_*/w*/*/{ref.hex()}.*")
    return [path for path in found if not path.endswith(".damaged") and ".tmp-" not in path]


def push_out(refs):
    """Fill memory until the objects are on disk and no longer in memory."""
    filler = []
    spilled = wait_until(
        lambda: (
            filler.append(ray.put(np.zeros(10_000_000, np.uint8))) or all(links(r) for r in refs)
        )
    )
    filler += [ray.put(np.zeros(10_000_000, np.uint8)) for _ in range(12)]
    filler.clear()
    return spilled


def value(ref):
    try:
        array = ray.get(ref, timeout=120)
        return bool((array == 7).all())
    except ray.exceptions.ObjectLostError:
        return "lost"
    except Exception as error:
        return type(error).__name__


def unlink(ref):
    os.unlink(links(ref)[0])


def remove_batch(ref):
    shutil.rmtree(os.path.dirname(links(ref)[0]))


def flip(ref):
    (path,) = links(ref)
    with open(path, "r+b") as file:
        file.seek(int(os.path.basename(path).split(".")[1], 16) + 500_000)
        file.write(b"!")


ways = {"unlinked": unlink, "flipped": flip, "large": flip}
made = {name: make.remote(name, LARGE if name == "large" else SMALL) for name in ways}
put = {name: ray.put(np.full(SMALL, 7, np.uint8)) for name in ("unlinked", "flipped")}
ray.wait(list(made.values()), num_returns=len(made), timeout=120)
everything = [*made.values(), *put.values()]
spilled = push_out(everything)
for name, ref in made.items():
    ways[name](ref)
for name, ref in put.items():
    ways[name](ref)
began = time.monotonic()
values = {name: value(ref) for name, ref in made.items()}
took_s = time.monotonic() - began
began = time.monotonic()
lost = {name: value(ref) for name, ref in put.items()}
put_took_s = time.monotonic() - began
again = []
for _ in range(3):
    put_back = wait_until(lambda: all(links(ref) for ref in made.values()), 60)
    again.append([put_back and push_out(list(made.values())), *map(value, made.values())])
runs_of_one_loss = {name: runs(name) for name in made}

# A whole batch, then the whole directory of the node; and spilling goes on.
batch = make.remote("batch", SMALL)
ray.wait([batch], timeout=120)
push_out([batch])
remove_batch(batch)
batch_value = value(batch)
directory = make.remote("directory", SMALL)
ray.wait([directory], timeout=120)
push_out([directory])
for path in glob.glob(f"{spill_directory}/ray_spilled_objects_*"):
    # IO workers remove and add entries meanwhile.
    wait_until(lambda path=path: shutil.rmtree(path, ignore_errors=True) or not links(directory))
directory_value = value(directory)
more = make.remote("more", SMALL)
ray.wait([more], timeout=120)
goes_on = [push_out([more]), value(more), runs("more")]
stand_ins = [node for node in ray.nodes() if node["NodeName"] == "mantaray-lost-object"]
report(
    spilled=spilled,
    values=values,
    lost=lost,
    took_s=round(took_s, 1),
    put_took_s=round(put_took_s, 1),
    again=again,
    runs=runs_of_one_loss,
    batch=[batch_value, runs("batch")],
    directory=[directory_value, runs("directory")],
    goes_on=goes_on,
    stand_ins=len(stand_ins),
    all_dead=not any(node["Alive"] for node in stand_ins),
)
ray.shutdown()
