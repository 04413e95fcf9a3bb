"""What becomes of finalizers when Ray is shut down, and when the program ends; prints as it happens.

Its argument says how it ends: "exit" without a word to Ray, "shutdown" before that. The last line is
JSON, printed by the function that is called last.
"""

import json
import sys
import tempfile
import time

import ray
from mantaray.refs import finalize

how = sys.argv[1]
root = tempfile.mkdtemp(prefix="mf-", dir="/tmp")
seen = []


def start():
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80_000_000,
        _temp_dir=root,
    )


def note(word):
    seen.append((word, ray.is_initialized()))


def tell():
    print(json.dumps({"how": how, "seen": seen}), flush=True)


def fail():
    raise ValueError("at exit")


start()
if how == "exit":
    # The first is called last.
    first = ray.put(1)
    finalize(first, tell)
    second = ray.put(2)
    finalize(second, note, "second")
    finalize(second, fail)
    finalize(second, note, "wrong").atexit = False
    third = ray.put(3)
    finalize(third, note, "third")
    finalize(third, note, "wrong").detach()
    # Dropped just before the end: gone is gone, whatever is wished for the exit.
    finalize(ray.put(4), note, "gone").atexit = False
elif how == "shutdown":
    # Many, so that a look at them is under way when the core worker goes.
    refs = [ray.put(number) for number in range(20_000)]
    calls = []
    for number, ref in enumerate(refs):
        finalize(ref, lambda number=number: calls.append((number, ray.is_initialized())))
    finalize(refs[0], note, "not at exit").atexit = False
    ray.shutdown()
    deadline = time.monotonic() + 20
    while len(calls) < len(refs) and time.monotonic() < deadline:
        time.sleep(0.01)
    in_order = calls == [(number, False) for number in reversed(range(len(refs)))]
    start()
    calls = []
    new = ray.put("new")
    finalizer = finalize(new, calls.append, 1)
    time.sleep(0.5)
    quiet = not calls and finalizer.alive
    del new
    while not calls and time.monotonic() < deadline:
        time.sleep(0.01)
    ray.shutdown()
    seen.append({"in_order": in_order, "quiet": quiet, "again": calls == [1]})
    tell()
