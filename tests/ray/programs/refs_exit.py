"""What becomes of finalizers when Ray is shut down, and when the program ends; prints as it happens.

Its argument says how it ends: "held back" without a word to Ray, while Ray's word that an object is gone
comes too late; "shutdown" after Ray was shut down and started again. The last line is JSON, printed by the
function that is called last.
"""

import json
import sys
import tempfile
import time

import ray
from mantaray.refs import finalize


def start(root):
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80_000_000,
        _temp_dir=root,
    )


def hold_back(finalizer):
    """From now on Ray's word that an object is gone is kept; return what hands over all of it."""
    session, kept = finalizer._session, []
    tell, session._gone = session._gone, kept.append
    return lambda: [tell(object_id) for object_id in kept]


class Leaving:
    """Objects with finalizers that are there when the program ends, and what is called then.

    Args:
        told: called last, with the words that the others said.
        holds_back: whether Ray's word that an object is gone comes only when everything was called.
    """

    def __init__(self, told, holds_back=False):
        self.said = []
        self.told = told
        # The first is called last.
        self.first = ray.put(1)
        finalizer = finalize(self.first, self.tell)
        self.hand_over = hold_back(finalizer) if holds_back else list
        self.second = ray.put(2)
        finalize(self.second, self.note, "second")
        finalize(self.second, self.fail)
        finalize(self.second, self.note, "wrong").atexit = False
        self.third = ray.put(3)
        finalize(self.third, self.note, "third")
        finalize(self.third, self.note, "wrong").detach()
        # Dropped just before the end: gone is gone, whatever is wished for the exit.
        finalize(ray.put(4), self.note, "gone").atexit = False

    def note(self, word):
        self.said.append(word if ray.is_initialized() else f"{word} without Ray")

    def fail(self):
        raise ValueError("at exit")

    def tell(self):
        self.hand_over()
        self.told(self.said)


def shut_down_under_a_look(root):
    # Many, so that a look at them is under way when the core worker goes.
    seen = []
    refs = [ray.put(number) for number in range(20_000)]
    calls = []
    for number, ref in enumerate(refs):
        finalize(ref, lambda number=number: calls.append((number, ray.is_initialized())))
    finalize(refs[0], seen.append, "not at exit").atexit = False
    ray.shutdown()
    deadline = time.monotonic() + 120
    while len(calls) < len(refs) and time.monotonic() < deadline:
        time.sleep(0.01)
    in_order = calls == [(number, False) for number in reversed(range(len(refs)))]
    start(root)
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
    return seen


if __name__ == "__main__":
    directory = tempfile.mkdtemp(prefix="mf-", dir="/tmp")
    start(directory)
    if sys.argv[1] == "held back":
        left = Leaving(lambda said: print(json.dumps(said), flush=True), holds_back=True)
    else:
        print(json.dumps(shut_down_under_a_look(directory)))
