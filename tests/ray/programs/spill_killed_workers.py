"""IO workers killed with SIGKILL again and again while they spill and restore."""

import random
import sys
import threading
import time

import psutil
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

root = sys.argv[1]
paths = start(root, store_mb=120)
SIZE = 500_000
kills = 0
done = threading.Event()


def killer():
    global kills
    chance = random.Random(3)
    while not done.wait(chance.uniform(0.3, 1.0)):
        for process in io_workers():
            try:
                process.kill()
                kills += 1
            except psutil.NoSuchProcess:
                pass


thread = threading.Thread(target=killer)
thread.start()
refs, wrong = {}, []
for number in range(900):
    refs[number] = ray.put(payload(number, SIZE))
    if number % 7 == 6:
        past = random.Random(number).choice(sorted(refs))
        if not is_intact(past, ray.get(refs[past], timeout=60), SIZE):
            wrong.append(past)
    if number % 3 == 2:
        refs.pop(number - 1)
done.set()
thread.join()
wrong += [
    number for number, ref in refs.items() if not is_intact(number, ray.get(ref, timeout=60), SIZE)
]
live = len(refs) * SIZE
wait_until(lambda: disk_bytes(paths) <= live * 1.1, timeout_s=30)
amplification = disk_bytes(paths) / live
refs.clear()
wait_until(lambda: disk_bytes(paths) == 0, timeout_s=40)
# One more batch makes sure that a worker lives that sweeps up after the last one killed.
more = [ray.put(payload(i, 5_000_000)) for i in range(40)]
swept = wait_until(lambda: not any("/.tmp-" in name for name in names_below(paths)), timeout_s=20)
del more
wait_until(lambda: disk_bytes(paths) <= 10_000_000, timeout_s=30)
time.sleep(0.5)
report(
    kills=kills, wrong=wrong, amplification=amplification, swept=swept, left_bytes=disk_bytes(paths)
)
ray.shutdown()
