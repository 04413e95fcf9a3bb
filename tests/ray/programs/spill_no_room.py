"""One directory that is too small: the put that finds no room, and that all is well again after frees."""

import glob
import os
import sys
import time

import ray
from spill_common import disk_bytes, is_intact, names_below, payload, report, start, wait_until

root, directory = sys.argv[1:]
SIZE = 5_000_000
paths = start(root, directories=[directory], store_mb=80)


def put_until_refused():
    """Return how long the put that failed took, and its error's name."""
    while len(refs) < 200:
        number, began = len(refs), time.monotonic()
        try:
            refs[number] = ray.put(payload(number, SIZE))
        except Exception as error:
            return time.monotonic() - began, type(error).__name__
    return 0.0, "nothing"


def lines(words):
    """Return the lines with these words that IO workers wrote, by file."""
    found = []
    for name in glob.glob(os.path.join(root, "t", "session_latest", "logs", "io_worker-*")):
        with open(name, errors="replace") as file:
            found.append([line.rstrip() for line in file if words in line])
    return [one for one in found if one]


refs, began_all = {}, time.monotonic()
took_s, error = put_until_refused()
ours = disk_bytes(paths)
partial = [name for name in names_below(paths) if "/.tmp-" in name]
told = lines("no spill directory can take")
told_within_s = time.monotonic() - began_all
tracebacks = lines("Traceback")
for number in list(refs)[::2]:
    del refs[number]
gave_back = wait_until(lambda: disk_bytes(paths) < ours)
wrong = [n for n, ref in refs.items() if not is_intact(n, ray.get(ref, timeout=150), SIZE)]
again = ray.put(payload(1000, SIZE))
works_again = is_intact(1000, ray.get(again, timeout=150), SIZE)
del again
refs.clear()
emptied = wait_until(lambda: disk_bytes(paths) == 0)
# Last, for Ray prints what it logs to the same place.
ray.shutdown()
report(
    took_s=took_s,
    error=error,
    ours=ours,
    partial=partial,
    told=told,
    told_within_s=told_within_s,
    tracebacks=tracebacks,
    gave_back=gave_back,
    wrong=wrong,
    works_again=works_again,
    emptied=emptied,
)
