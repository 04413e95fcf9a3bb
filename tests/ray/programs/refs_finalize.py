"""Finalizers on a live cluster: who lets go how, and what is called then; prints one line of JSON.

The checks go on at the same time, because most of what they do is to wait. Then the program ends, without a
word to Ray.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ray
from mantaray.refs import NotOwnerError, finalize
from refs_exit import Leaving

root = tempfile.mkdtemp(prefix="mf-", dir="/tmp")
ray.init(
    address="local",
    num_cpus=4,
    include_dashboard=False,
    log_to_driver=False,
    object_store_memory=150_000_000,
    _temp_dir=root,
)
# What is waited for comes soon, or, on a machine with much else to do, late.
LIMIT_S = 120.0
QUIET_S = 0.7
AT_ONCE = 5


def wait_until(condition, timeout_s=LIMIT_S):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


class Calls(list):
    """What was called, and on which thread."""

    def __call__(self, *args, **kwargs):
        self.append((args, kwargs, threading.current_thread().name))

    def stays_empty(self):
        time.sleep(QUIET_S)
        return not self

    def comes_once(self):
        came = wait_until(lambda: self)
        time.sleep(0.3)
        return came and len(self) == 1


def write(path, text=""):
    with open(path, "a") as file:
        file.write(f"{os.getpid()} {text}\n")


def lines(path):
    return open(path).read().splitlines() if os.path.exists(path) else []


@ray.remote
class Holder:
    def pid(self):
        return os.getpid()

    def keep(self, refs):
        self.refs = refs

    def drop(self):
        self.refs = None
        gc.collect()

    def hand_on(self, other):
        return ray.get(other.keep.remote(self.refs))

    def own(self, path, size_bytes):
        ref = ray.put(np.zeros(size_bytes, np.uint8))
        finalize(ref, write, path, text="actor")
        return [ref]

    def owns_forever(self, path):
        self.mine = ray.put(1)
        finalize(self.mine, write, path, text="exit")
        not_at_exit = finalize(self.mine, write, path, text="wrong")
        not_at_exit.atexit = False
        # The actor's own attributes go before the exit; this stays.
        time.kept = self.mine
        return os.getpid()


@ray.remote
class AsyncHolder:
    async def own(self, path):
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        thread = threading.current_thread().name

        def gone():
            write(path, "on loop" if threading.current_thread().name == thread else "apart")
            loop.call_soon_threadsafe(done.set)

        self.done = done
        ref = ray.put("async")
        finalize(ref, gone)
        return [ref]

    async def finished(self):
        await asyncio.wait_for(self.done.wait(), LIMIT_S)
        return True

    async def owns_and_drops(self):
        called = asyncio.Event()
        loop = asyncio.get_running_loop()
        ref = ray.put(1)
        finalize(ref, loop.call_soon_threadsafe, called.set)
        del ref
        await asyncio.wait_for(called.wait(), LIMIT_S)
        return True


@ray.remote
def own_in_task(path):
    ref = ray.put("task")
    finalize(ref, write, path, text="task")
    return [ref]


@ray.remote
def small(_=None):
    return 5


@ray.remote
def big(_=None):
    return np.zeros(1_000_000, np.uint8)


@ray.remote
def wait_for_file(path, _):
    while not os.path.exists(path):
        time.sleep(0.02)
    return 5


def bad_interval():
    """The setting is read at the first finalizer of a session."""
    os.environ["MANTARAY_REFS_WATCH_INTERVAL_MS"] = "soon"
    try:
        finalize(ray.put(1), print)
    except ValueError as error:
        return str(error)
    finally:
        del os.environ["MANTARAY_REFS_WATCH_INTERVAL_MS"]


def check_drop_here():
    calls = Calls()
    ref = ray.put("x")
    finalizer = finalize(ref, calls, 1, 2, three=3)
    quiet = calls.stays_empty() and finalizer.alive
    del ref
    came = calls.comes_once()
    return {
        "quiet": quiet,
        "came": came,
        "dead": not finalizer.alive,
        "arguments": calls[0][:2] == ((1, 2), {"three": 3}),
        "thread": calls[0][2],
        "again": finalizer() is None and len(calls) == 1,
        "dead_detach": finalizer.detach() is None and finalizer.peek() is None,
    }


def check_borrower_lets_go():
    results = {}
    holder, other = Holder.remote(), Holder.remote()
    for name, make in (("put", lambda: ray.put(np.zeros(500_000))), ("small", small.remote)):
        calls = Calls()
        ref = make()
        ray.wait([ref])
        finalize(ref, calls)
        ray.get(holder.keep.remote([ref]))
        del ref
        quiet = calls.stays_empty()
        ray.get(holder.hand_on.remote(other))
        ray.get(holder.drop.remote())
        handed_on = calls.stays_empty()
        ray.get(other.drop.remote())
        results[name] = quiet and handed_on and calls.comes_once()
    return results


def check_borrower_killed():
    results = {}
    for name, make in (("put", lambda: ray.put("x")), ("small", small.remote), ("big", big.remote)):
        holder = Holder.remote()
        pid = ray.get(holder.pid.remote())
        calls = Calls()
        ref = make()
        ray.wait([ref])
        finalize(ref, calls)
        ray.get(holder.keep.remote([ref]))
        del ref
        quiet = calls.stays_empty()
        os.kill(pid, signal.SIGKILL)
        results[name] = quiet and calls.comes_once()
    return results


def check_owner_killed():
    path = os.path.join(root, "owner-killed")
    holder = Holder.remote()
    pid = ray.get(holder.pid.remote())
    refs = ray.get(holder.own.remote(path, 1_000_000))
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    del refs
    time.sleep(1.5)
    return lines(path) == []


def check_actor_owns():
    path = os.path.join(root, "actor-owns")
    pid = ray.get(shared.pid.remote())
    refs = ray.get(shared.own.remote(path, 1_000_000))
    try:
        finalize(refs[0], print)
        error = None
    except NotOwnerError as caught:
        # Its frames hold the reference.
        error = caught.with_traceback(None)
    time.sleep(QUIET_S)
    quiet = lines(path) == []
    hex_id = refs[0].hex()
    del refs
    came = wait_until(lambda: lines(path) == [f"{pid} actor"])
    words = str(error)
    return {
        "quiet": quiet,
        "came": came,
        "pid": error.pid == pid,
        "says_who": all(
            part in words
            for part in (str(pid), error.address, error.worker_id, error.node_id, hex_id)
        ),
        "parts": len(error.worker_id) == 56 and len(error.node_id) == 56,
    }


def check_task_owns():
    path = os.path.join(root, "task-owns")
    refs = ray.get(own_in_task.remote(path))
    time.sleep(QUIET_S)
    quiet = lines(path) == []
    del refs
    return quiet and wait_until(lambda: [line.split()[1] for line in lines(path)] == ["task"])


def check_async_actor():
    path = os.path.join(root, "async")
    holder = AsyncHolder.remote()
    refs = ray.get(holder.own.remote(path))
    time.sleep(QUIET_S)
    quiet = lines(path) == []
    del refs
    return {
        "quiet": quiet,
        "came": ray.get(holder.finished.remote()),
        "apart": [line.split()[1] for line in lines(path)] == ["apart"],
        "drops_itself": ray.get(holder.owns_and_drops.remote()),
    }


def check_exceptions():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("mantaray.refs").addHandler(handler)
    logging.getLogger("mantaray.refs").propagate = False

    def fail(error):
        raise error

    calls = Calls()
    refs = [ray.put(number) for number in range(4)]
    errors = [ValueError("bang"), SystemExit(3), KeyboardInterrupt()]
    for ref, error in zip(refs, errors, strict=False):
        finalize(ref, fail, error)
    del ref
    refs_hex = refs[0].hex()
    refs[:3] = []
    logged = wait_until(lambda: len(records) == 3)
    finalize(refs[0], calls)
    refs.clear()
    came = calls.comes_once()
    ours = finalize(again := ray.put(1), fail, ValueError("to the caller"))
    try:
        ours()
        raised = False
    except ValueError:
        raised = True
    del again
    logging.getLogger("mantaray.refs").removeHandler(handler)
    logging.getLogger("mantaray.refs").propagate = True
    return {
        "logged": logged,
        "traces": all(record.exc_info for record in records),
        "names_object": any(refs_hex in record.getMessage() for record in records),
        "others_come": came,
        "raised_by_hand": raised,
    }


def check_lineage():
    """What a result was made from stays in the owner's table; values that were put stay reachable."""
    results = {}
    for name, make in (("big", big.remote), ("small", small.remote)):
        calls = Calls()
        ref = make()
        ray.wait([ref])
        finalize(ref, calls)
        out = big.remote([ref])
        ray.wait([out])
        quiet = calls.stays_empty()
        del ref
        results[name] = quiet and calls.comes_once()
        del out
    calls = Calls()
    ref = ray.put("needed for another try")
    finalize(ref, calls)
    out = big.remote([ref])
    ray.wait([out])
    del ref
    quiet = calls.stays_empty()
    del out
    results["put"] = quiet and calls.comes_once()
    return results


def check_pending():
    calls, argument_calls = Calls(), Calls()
    argument = ray.put("x")
    finalize(argument, argument_calls)
    path = os.path.join(root, "go-on")
    ref = wait_for_file.remote(path, argument)
    finalize(ref, calls)
    del argument
    in_use = argument_calls.stays_empty() and not calls
    write(path)
    del ref
    return in_use and calls.comes_once() and argument_calls.comes_once()


def check_weakref_manners():
    calls = Calls()
    ref = ray.put("kept")
    finalizer = finalize(ref, calls, 1, two=2)
    defaults = finalizer.atexit is True
    finalizer.atexit = False
    shown = ref.hex() in repr(finalizer)
    del ref
    # A reference from peek keeps the object like any other.
    again = ray.put("peeked")
    ref, callback, args, kwargs = finalize(again, calls).peek()
    peeked = ray.get(ref) == "peeked" and (callback, args, kwargs) == (calls, (), {})
    del again
    came_first = wait_until(lambda: len(calls) == 1)
    only_first = calls.__len__() == 1 and calls[0][0] == (1,)
    time.sleep(QUIET_S)
    still_peeked = len(calls) == 1
    del ref
    came_second = wait_until(lambda: len(calls) == 2)
    detached_calls = Calls()
    ref = ray.put("detached")
    finalizer = finalize(ref, detached_calls, 7)
    back = finalizer.detach()
    detached = back[0] == ref and back[1:] == (detached_calls, (7,), {}) and not finalizer.alive
    detached_dead = finalizer.detach() is None and finalizer() is None and not finalizer.atexit
    del ref, back
    order = []
    ref = ray.put("several")
    several = [finalize(ref, order.append, number) for number in range(5)]
    several[1].detach()
    by_hand = several[2]() is None and order == [2]
    del ref
    wait_until(lambda: len(order) == 4)
    return {
        "defaults": defaults,
        "shown": shown,
        "peeked": peeked and came_first and only_first and still_peeked and came_second,
        "detached": detached and detached_dead and detached_calls.stays_empty(),
        "order": by_hand and order == [2, 4, 3, 0],
    }


def check_refusals():
    @ray.remote(num_returns="streaming")
    def generate():
        yield 1
        yield 2

    async def coroutine():
        pass

    generator = generate.remote()
    said = {}
    for name, arguments in {
        "generator": (generator, print),
        "actor": (shared, print),
        "no ref": (5, print),
        "no callback": (ray.put(1), 5),
        "coroutine": (ray.put(1), coroutine),
    }.items():
        try:
            finalize(*arguments)
        except TypeError as error:
            said[name] = str(error)
    calls = Calls()
    for ref in generator:
        finalize(ref, calls)
    del ref, generator
    return {"said": said, "items": wait_until(lambda: len(calls) == 2)}


def check_callback_uses_ray():
    results = []
    ref = ray.put("x")
    finalize(ref, lambda: results.append(ray.get(small.remote()) + ray.get(ray.put(1))))
    del ref
    return wait_until(lambda: results == [6])


def check_freed():
    """A freed value leaves references behind; only old Rays let a user free."""
    try:
        from ray._private.internal_api import free
    except ImportError:
        return True
    calls = Calls()
    ref = ray.put(np.zeros(1_000_000, np.uint8))
    finalize(ref, calls)
    free([ref])
    quiet = calls.stays_empty()
    del ref
    return quiet and calls.comes_once()


def check_not_pinned():
    """Being looked at, and having a finalizer, changes no count."""
    from ray._private.worker import global_worker

    ref = ray.put("counted")
    finalize(ref, print).atexit = False
    time.sleep(QUIET_S)
    counts = global_worker.core_worker.get_all_reference_counts()[ref.hex().encode()]
    return counts == {"local": 1, "submitted": 0}


def check_actor_exit():
    path = os.path.join(root, "actor-exit")
    holder = Holder.remote()
    pid = ray.get(holder.owns_forever.remote(path))
    holder.__ray_terminate__.remote()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    wait_until(lambda: lines(path), 3)
    return [line.split() for line in lines(path)] == [[str(pid), "exit"]]


def check_many():
    calls = []
    refs = [ray.put(number) for number in range(5_000)]
    for number, ref in enumerate(refs):
        finalize(ref, calls.append, number)
    del ref
    kept = refs[::2]
    del refs
    half = wait_until(lambda: len(calls) == 2_500)
    time.sleep(QUIET_S)
    half = half and sorted(calls) == list(range(1, 5_000, 2))
    kept.clear()
    return half and wait_until(lambda: sorted(calls) == list(range(5_000)))


def run(name, check):
    begin = time.monotonic()
    try:
        said = check()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(name, round(time.monotonic() - begin, 1), said, file=sys.stderr, flush=True)
    return said


wanted = sys.argv[1:]
shared = Holder.remote()
seen = {"bad_interval": bad_interval()}
with ThreadPoolExecutor(AT_ONCE) as pool:
    running = {
        name[6:]: pool.submit(run, name, check)
        for name, check in list(globals().items())
        if name.startswith("check_") and (not wanted or name[6:] in wanted)
    }
    seen |= {name: each.result() for name, each in running.items()}
left = Leaving(lambda said: print(json.dumps(seen | {"exit": said}), flush=True))
