"""Two directories: the first full at the start, later both nearly full; then the roomier one vanishes."""

import os
import subprocess
import sys
import threading

import ray
from spill_common import (
    disk_bytes,
    io_workers,
    is_intact,
    names_below,
    payload,
    report,
    start,
    wait_until,
)

root, small, large, reserve_bytes = *sys.argv[1:4], int(sys.argv[4])
SIZE = 5_000_000
refs = {}
least_free = {small: 1 << 60, large: 1 << 60}
done = threading.Event()


def free_bytes(path):
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize


def watch():
    while not done.wait(0.02):
        for path in least_free:
            least_free[path] = min(least_free[path], free_bytes(path))


def put(count):
    for number in range(len(refs), len(refs) + count):
        refs[number] = ray.put(payload(number, SIZE))


def wrong():
    bad = []
    for number, ref in refs.items():
        if not is_intact(number, ray.get(ref, timeout=150), SIZE):
            bad.append(number)
    return bad


filler = os.path.join(small, "filler")
with open(filler, "wb") as file:
    file.write(b"x" * (free_bytes(small) - 1_000_000))
paths = start(root, directories=[small, large], store_mb=80)
put(40)
first_full = {"wrong": wrong(), "in_large": disk_bytes([large])}

os.unlink(filler)
watcher = threading.Thread(target=watch)
watcher.start()
put(45)
both = {"wrong": wrong(), "in_small": disk_bytes([small]), "in_large": disk_bytes([large])}
partial = [name for name in names_below(paths) if "/.tmp-" in name]
done.set()
watcher.join()
reserve_eaten = [path for path, least in least_free.items() if least < reserve_bytes]

refs.clear()
emptied = wait_until(lambda: disk_bytes(paths) == 0)
subprocess.run(["umount", "--lazy", large], check=True)
put(30)
vanished = {"wrong": wrong(), "in_small": disk_bytes([small])}
refs.clear()
# Ray asks a worker that dies while it deletes three times more, at once, and then no other one.
wait_until(lambda: disk_bytes([small]) == 0)
for process in io_workers():
    process.kill()
put(30)
restarted = {"wrong": wrong(), "in_small": disk_bytes([small])}
behind_the_vanished = sorted(os.listdir(large))
# Last, for Ray prints what it logs to the same place.
ray.shutdown()
report(
    first_full=first_full,
    both=both,
    partial=partial,
    reserve_eaten=reserve_eaten,
    emptied=emptied,
    vanished=vanished,
    restarted=restarted,
    behind_the_vanished=behind_the_vanished,
)
