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
GET_TIMEOUT_S = 120
# After each the raylet waits some ten seconds before it tries again what the worker had to do.
MOST_KILLS = 3
TIME_LIMIT_S = 120
kills = 0
done = threading.Event()


def is_working(process):
    """Whether the worker spills or restores this moment; its title says so while it does.

    One that still starts is left alone: the raylet waits a minute for it before it starts another.
    """
    title = " ".join(process.cmdline())
    return "ray::SPILL_" in title or "ray::RESTORE_" in title


def kill_one(workers, look_s):
    """Kill the first worker that is seen at work within the time; return whether one was."""
    deadline = time.monotonic() + look_s
    while time.monotonic() < deadline:
        for process in workers:
            try:
                if is_working(process):
                    process.kill()
                    return True
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.002)
    return False


def killer():
    global kills
    chance = random.Random(3)
    while kills < MOST_KILLS and not done.wait(chance.uniform(0.2, 0.8)):
        kills += kill_one(io_workers(), look_s=0.5)


# A daemon: should a check fail, the program ends all the same.
thread = threading.Thread(target=killer, daemon=True)
thread.start()
refs, wrong = {}, []
number = 0
deadline = time.monotonic() + TIME_LIMIT_S
while number < 600 or (kills < MOST_KILLS and time.monotonic() < deadline):
    refs[number] = ray.put(payload(number, SIZE))
    if number % 7 == 6:
        past = random.Random(number).choice(sorted(refs))
        if not is_intact(past, ray.get(refs[past], timeout=GET_TIMEOUT_S), SIZE):
            wrong.append(past)
    if number % 3 == 2:
        refs.pop(number - 1)
    if len(refs) > 500:
        refs.pop(min(refs))
    number += 1
done.set()
thread.join()
wrong += [
    number
    for number, ref in refs.items()
    if not is_intact(number, ray.get(ref, timeout=GET_TIMEOUT_S), SIZE)
]
live = len(refs) * SIZE
wait_until(lambda: disk_bytes(paths) <= live * 1.1, timeout_s=30)
amplification = disk_bytes(paths) / live
refs.clear()
wait_until(lambda: disk_bytes(paths) == 0, timeout_s=40)
# One more batch makes sure that a worker lives that sweeps up after the last one killed.
more = [ray.put(payload(i, 5_000_000)) for i in range(40)]
swept = wait_until(lambda: not any("/.tmp-" in name for name in names_below(paths)))
del more
wait_until(lambda: disk_bytes(paths) <= 10_000_000, timeout_s=30)
time.sleep(0.5)
report(
    kills=kills, wrong=wrong, amplification=amplification, swept=swept, left_bytes=disk_bytes(paths)
)
ray.shutdown()
