"""A shuffle larger than the store while an IO worker is killed, an object is damaged and the disk is full.

The directory lies on a small disk. Tasks are retried, as users would set it for a job of this size.

Nobody refers to anything in the end. What is left on the disk then is what the raylet was not asked to
free: Ray 2.60 forgets the outputs of a task that ran again if nobody referred to them any more.
"""

import os
import re
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
TASK_ID_CHARACTERS = 48
paths = start(root, directories=[directory], store_mb=120, debug_dump_period_milliseconds=500)
happened = {"killed": 0, "damaged": 0, "filled": 0}
done = threading.Event()


@ray.remote(num_returns=BLOCKS, max_retries=20, retry_exceptions=True)
def cut(number):
    with open(os.path.join(root, "runs-" + ray.get_runtime_context().get_task_id()), "a") as file:
        file.write("x")
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


def spilled_for_the_raylet():
    """Bytes of spilled objects that the raylet keeps; it writes them down twice a second."""
    with open(os.path.join(root, "t", "session_latest", "logs", "debug_state.txt")) as file:
        told = re.search(r"- num bytes currently spilled: (\d+)", file.read())
    # It writes the file anew each time.
    return int(told[1]) if told else -1


def is_only_the_raylets():
    """Whether the disk holds nothing but what the raylet keeps, headers and padding aside."""
    kept_bytes = spilled_for_the_raylet()
    return kept_bytes >= 0 and disk_bytes(paths) <= kept_bytes + 8192 * len(names_below(paths))


def has_run_again(name):
    """Whether a spilled object is an output of a task that ran more than once."""
    path = os.path.join(root, "runs-" + os.path.basename(name)[:TASK_ID_CHARACTERS])
    return os.path.exists(path) and os.path.getsize(path) > 1


thread = threading.Thread(target=make_faults, daemon=True)
thread.start()
cuts = [cut.remote(number) for number in range(BLOCKS)]
joined = [join.remote(*(parts[number] for parts in cuts)) for number in range(BLOCKS)]
del cuts
count, total, torn, out_of_disk = 0, 0, [], False
for number in range(BLOCKS):
    try:
        block = ray.get(joined[number], timeout=300)
    except ray.exceptions.OutOfDiskError:
        # What a task gets whose output finds no room after all its retries.
        out_of_disk = True
        joined[number] = None
        continue
    joined[number] = None
    count += len(block)
    total += int(block[:, 0].sum())
    if not (block == block[:, :1]).all():
        torn.append(number)
    del block
done.set()
thread.join(timeout=30)
rows = BLOCKS * ROWS
emptied = wait_until(lambda: disk_bytes(paths) == 0, timeout_s=30)
only_the_raylets = emptied or wait_until(is_only_the_raylets, timeout_s=30)
report(
    right=count == rows and total == rows * (rows - 1) // 2,
    torn=torn,
    out_of_disk=out_of_disk,
    emptied=emptied,
    only_the_raylets=only_the_raylets,
    left_bytes=disk_bytes(paths),
    left_in_raylet=spilled_for_the_raylet(),
    left_of_single_runs=[name for name in names_below(paths) if not has_run_again(name)],
    **happened,
)
ray.shutdown()
