"""A shuffle larger than the store while an IO worker is killed, an object is damaged and the disk is full.

The directory lies on a small disk. Tasks are retried, as users would set it for a job of this size.
"""

import os
import sys
import threading
import time

import numpy as np
import ray
from spill_common import disk_bytes, io_workers, names_below, report, start, wait_until

root, directory = sys.argv[1:]
BLOCKS = 24
ROWS = 16_000
ROW_INTS = 128
paths = start(root, directories=[directory], store_mb=120)
happened = {"killed": 0, "damaged": 0, "filled": 0}
done = threading.Event()


@ray.remote(num_returns=BLOCKS, max_retries=20, retry_exceptions=True)
def cut(number):
    rows = np.empty((ROWS, ROW_INTS), dtype=np.int64)
    rows[:] = np.arange(number * ROWS, (number + 1) * ROWS)[:, None]
    order = np.random.default_rng(number).permutation(ROWS)
    return [rows[chosen] for chosen in np.array_split(order, BLOCKS)]


@ray.remote(max_retries=20, retry_exceptions=True)
def join(*parts):
    return np.concatenate(parts)


def kill_an_io_worker():
    for process in io_workers():
        process.kill()
        happened["killed"] += 1
        return


def damage_an_object():
    """Flip a bit of one spilled object, in the middle of its payload."""
    for link in names_below(paths):
        fields = os.path.basename(link).split(".")
        if len(fields) < 3 or link.endswith(".damaged"):
            continue
        with open(link, "r+b") as file:
            at = int(fields[1], 16) + 100_000
            file.seek(at)
            byte = file.read(1)
            if not byte:
                continue
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x40]))
        happened["damaged"] += 1
        return


def fill_the_disk_for_a_while():
    info = os.statvfs(directory)
    free_bytes = info.f_bavail * info.f_frsize
    # Less than a twentieth must not be left: the raylet refuses every create then, Mantaray or not.
    leave_bytes = info.f_blocks * info.f_frsize // 10
    filler = os.path.join(directory, "filler")
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free_bytes - leave_bytes))
    happened["filled"] += 1
    time.sleep(5)
    os.unlink(filler)


def make_faults():
    if not wait_until(lambda: disk_bytes(paths) > 100_000_000, timeout_s=120):
        return
    for fault in (kill_an_io_worker, damage_an_object, fill_the_disk_for_a_while, damage_an_object):
        try:
            fault()
        except OSError:
            continue  # Deleted or finished meanwhile.
        if done.wait(1):
            return


thread = threading.Thread(target=make_faults, daemon=True)
thread.start()
cuts = [cut.remote(number) for number in range(BLOCKS)]
joined = [join.remote(*(parts[number] for parts in cuts)) for number in range(BLOCKS)]
del cuts
count, total, torn = 0, 0, []
for number in range(BLOCKS):
    block = ray.get(joined[number], timeout=300)
    joined[number] = None
    count += len(block)
    total += int(block[:, 0].sum())
    if not (block == block[:, :1]).all():
        torn.append(number)
    del block
done.set()
thread.join(timeout=30)
rows = BLOCKS * ROWS
emptied = wait_until(lambda: disk_bytes(paths) == 0, timeout_s=60)
report(
    right=count == rows and total == rows * (rows - 1) // 2,
    torn=torn,
    emptied=emptied,
    left_bytes=disk_bytes(paths),
    **happened,
)
ray.shutdown()
