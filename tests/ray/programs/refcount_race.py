"""Provokes two notices about one borrower in a driver, and tells what became of the objects.

Usage: refcount_race.py doubled [ORDER...] | delayed KILLS | killed KILLS

`doubled` puts a function into the slot through which Ray handles a notice. It delivers each notice of a
borrower twice: the same one, or with a failure of the borrower before or after it.

`delayed` changes nothing of Ray's code: a borrower lets go of an object and is killed 50 ms later, over and
over. A setting of Ray's own (`testing_asio_delay_us`) delays the driver's handling of "reference removed"
messages by 100 to 200 ms.

`killed` changes nothing at all. A borrower lets go of 2,000 objects at once and is killed, over and over,
on a machine so busy that the driver's event loop gets what the others leave (SCHED_IDLE). The loop takes
the answer that has all the messages, queues a handler for each, asks the borrower for more, and learns that
the borrower is dead before it has finished. What a handler of Ray's event loop queues comes after all that
arrived while the handler ran: so the failure comes before the messages.

The driver runs in a process of its own, which may die. The last line says how it ended, and what it told.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mantaray.overlay
import ray
import ray._raylet
from mantaray._native import interpose

RAYLET = ray._raylet.__file__
_TABLE = (
    "N4absl12lts_2023080213flat_hash_mapINS_8ObjectIDENS1_9ReferenceENS3_13hash_internal4HashIS5_EE"
    "St8equal_toIS5_ESaISt4pairIKS5_S6_EEEE"
)
CLEANUP = (
    f"_ZN3ray4core16ReferenceCounter28CleanupBorrowersOnRefRemovedERK{_TABLE}RSD_RKNS_3rpc7AddressE"
)
FROM_PROTO = (
    "_ZN3ray4core16ReferenceCounter23ReferenceTableFromProtoERKN6google8protobuf16RepeatedPtrField"
    "INS_3rpc20ObjectReferenceCountEEE"
)
# Where the bytes of an identifier lie in Ray's object: behind its hash.
ID_OFFSET = 8
ID_BYTES = 28
_METHOD = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)
# Ray delays what it handles under this name, in microseconds.
DELAYS = "Subscriber.HandlePublishedMessage_WORKER_REF_REMOVED_CHANNEL=100000:200000"
# The message has left by then, and the driver has not handled it yet.
DIES_AFTER_S = 0.05
ORDERS = ("removed-twice", "failed-then-removed", "removed-then-failed")
_KEPT: list[Any] = []
# In `killed`.
LENT = 2_000
IO_THREAD = "worker.io"
# Takes a processor for itself until its parent is gone.
SPINNER = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


def empty_table() -> Any:
    """Return a table without entries, as Ray makes one for a borrower that failed; x86-64 only."""
    table = ctypes.create_string_buffer(256)
    nothing = ctypes.create_string_buffer(64)
    make = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    make(interpose.definition(RAYLET, FROM_PROTO))(
        ctypes.addressof(table), ctypes.addressof(nothing)
    )
    return table


class Doubler:
    """Has each notice delivered twice, in an order that can be changed.

    A notice about any other object is delivered once: the first borrower is handed a handle of the second,
    and whether the driver learns of that before it is dropped is a matter of time.

    Attributes:
        order: one of ORDERS.
        object_id: of the object whose notices are doubled, 28 bytes.
        seen: how many notices about that object came.
        others: how many notices about other objects came.
    """

    def __init__(self) -> None:
        """Take over the slot, for good."""
        self.order = ORDERS[0]
        self.object_id = b""
        self.seen = 0
        self.others = 0
        self._deliver()

    def _deliver(self) -> None:
        held = interpose.held(RAYLET, CLEANUP)
        handle = _METHOD(held)
        empty = empty_table()
        failed = ctypes.addressof(empty)

        def twice(counter: int, message: int, object_id: int, borrower: int) -> None:
            if ctypes.string_at(object_id + ID_OFFSET, ID_BYTES) != self.object_id:
                self.others += 1
                handle(counter, message, object_id, borrower)
                return
            for table in {
                "removed-twice": (message, message),
                "failed-then-removed": (failed, message),
                "removed-then-failed": (message, failed),
            }[self.order]:
                handle(counter, table, object_id, borrower)
            # Only now: the driver drops its reference next, and without it nothing is left to merge into.
            self.seen += 1

        function = _METHOD(twice)
        # Ray calls it until the end.
        _KEPT.extend((function, empty))
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        interpose.replace(RAYLET, CLEANUP, held, address)


@ray.remote(num_cpus=0)
class Borrower:
    """Keeps references, and hands them on."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, refs: list[Any]) -> None:
        self.kept += refs

    def hand_on(self, other: Any) -> None:
        ray.get(other.keep.remote(self.kept))

    def drop(self) -> None:
        self.kept.clear()

    def drop_and_die(self) -> None:
        """Let go of everything after this call, and be killed a moment later."""
        threading.Thread(target=self._end).start()

    def _end(self) -> None:
        # The caller gets its answer.
        time.sleep(0.1)
        self.kept.clear()
        time.sleep(DIES_AFTER_S)
        os.kill(os.getpid(), signal.SIGKILL)

    def drop_suspended_and_die(self, owner: int, after_s: float) -> None:
        """Let go of everything while the owner is suspended; be killed when it has gone on for a while."""
        threading.Thread(target=self._end_suspended, args=(owner, after_s)).start()

    def _end_suspended(self, owner: int, after_s: float) -> None:
        # The caller gets its answer.
        time.sleep(0.05)
        os.kill(owner, signal.SIGSTOP)
        try:
            self.kept.clear()
            # So the owner gets the rest in one answer, when it has taken the first message.
            time.sleep(0.02)
        finally:
            os.kill(owner, signal.SIGCONT)
        time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)

    def read(self) -> int:
        return len(ray.get(self.kept[0]))


def wait_for(what: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """Wait until something holds; return whether it did within the time."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def table() -> dict[bytes, dict[str, int]]:
    """Return the counts of the objects in this process's table."""
    counts: dict[bytes, dict[str, int]] = (
        ray._private.worker.global_worker.core_worker.get_all_reference_counts()
    )
    return counts


def doubled(orders: Sequence[str]) -> dict[str, Any]:
    """One borrower lends on and lets go; its notice comes twice. The second borrower keeps on."""
    doubler = Doubler()
    told: dict[str, Any] = {}
    first, second = Borrower.remote(), Borrower.remote()
    for order in orders:
        ref = ray.put(b"x" * 200_000)
        doubler.order, doubler.object_id, doubler.seen = order, ref.binary(), 0
        name = ref.hex().encode()
        ray.get(first.keep.remote([ref]))
        ray.get(first.hand_on.remote(second))
        ray.get(first.drop.remote())
        seen: dict[str, bool] = {"noticed": wait_for(lambda: doubler.seen >= 1)}
        seen["held"] = table().get(name) == {"local": 1, "submitted": 0}
        del ref
        # The second borrower was made known by the first one's message.
        seen["read"] = ray.get(second.read.remote()) == 200_000
        seen["known"] = name in table()
        ray.get(second.drop.remote())
        seen["gone"] = wait_for(lambda name=name: name not in table())  # type: ignore[misc]
        told[order] = seen
    told["others"] = doubler.others
    return told


def repeated_notices() -> int:
    """Return how many further notices the guard of this process has seen."""
    counts = interpose.refcount_guard_counts()
    return int(counts["repeated_ref_removed"]) + int(counts["repeated_publisher_failed"])


def delayed(kills: int) -> dict[str, Any]:
    """A borrower lends on, lets go and is killed, over and over; the second borrower keeps on."""
    wrong = []
    second = Borrower.remote()
    for kill in range(1, kills + 1):
        first = Borrower.remote()
        ref = ray.put(b"x" * 200_000)
        name = ref.hex().encode()
        ray.get(first.keep.remote([ref]))
        ray.get(first.hand_on.remote(second))
        before = repeated_notices()
        ray.get(first.drop_and_die.remote())
        # Without a guard nobody counts.
        wait_for(lambda before=before: repeated_notices() > before, 1.5)  # type: ignore[misc]
        del ref
        # The second borrower was made known by the first one's message, which came after its death.
        seen = {"read": ray.get(second.read.remote()) == 200_000, "known": name in table()}
        ray.get(second.drop.remote())
        seen["gone"] = wait_for(lambda name=name: name not in table())  # type: ignore[misc]
        wrong += [{"kill": kill, **seen}] if not all(seen.values()) else []
        print(json.dumps({"rounds": kill}), file=sys.stderr, flush=True)
    return {"rounds": kills, "wrong": wrong}


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Keep every processor busy, and let this process's event loops have only what is left."""
    loops = [
        int(task.name)
        for task in Path("/proc/self/task").iterdir()
        if (task / "comm").read_text().strip() == IO_THREAD
    ]
    assert loops, f"no thread is named {IO_THREAD}"
    command = [sys.executable, "-S", "-c", SPINNER]
    spinners = [subprocess.Popen(command) for _ in range((os.cpu_count() or 1) + 1)]
    try:
        for loop in loops:
            os.sched_setscheduler(loop, os.SCHED_IDLE, os.sched_param(0))
        yield
    finally:
        for loop in loops:
            os.sched_setscheduler(loop, os.SCHED_OTHER, os.sched_param(0))
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def killed(kills: int) -> dict[str, Any]:
    """A borrower lets go of many objects and is killed, over and over, on a busy machine."""
    refs = [ray.put(b"") for _ in range(LENT)]
    names = {ref.hex().encode() for ref in refs}
    for kill in range(kills):
        borrower = Borrower.remote()
        ray.get(borrower.keep.remote(refs))
        time.sleep(0.1)
        # So that deaths fall into every moment.
        after_s = 0.02 + 0.48 * (kill * 0.618 % 1)
        ray.get(borrower.drop_suspended_and_die.remote(os.getpid(), after_s))
        with busy_machine():
            time.sleep(after_s + 1)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(borrower.drop.remote())
        print(json.dumps({"rounds": kill + 1}), file=sys.stderr, flush=True)
    del refs
    gone = wait_for(lambda: table().keys().isdisjoint(names))
    return {"rounds": kills, "gone": gone}


def fork_has_guard_of_its_own() -> bool:
    """Fork a child that takes the guard back; return whether each process has a guard of its own."""
    child = os.fork()
    if child == 0:
        had_it = False
        try:
            attached = interpose.refcount_guard_counts()["attached"]
            interpose.detach_refcount_guard()
            had_it = attached and not interpose.refcount_guard_counts()["attached"]
        finally:
            # It must not go on as a second driver, whatever happened.
            os._exit(0 if had_it else 1)
    ended: list[int] = []

    def has_ended() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid != 0:
            ended.append(os.waitstatus_to_exitcode(status))
        return pid != 0

    wait_for(has_ended)
    return ended == [0] and bool(interpose.refcount_guard_counts()["attached"])


def drive(what: str, arguments: Sequence[str]) -> None:
    """Be the driver; print what became of the objects."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
    )
    if what == "killed":
        told = killed(int(arguments[0]))
    elif what == "delayed":
        told = delayed(int(arguments[0]))
    else:
        told = doubled(arguments or ORDERS)
    # The error of a call to an actor that was killed holds the call's references in a cycle.
    gc.collect()
    # Actors and what they were told went with their handles.
    told["empty"] = wait_for(lambda: not table())
    told["left"] = {name.decode(): counts for name, counts in table().items()}
    told["guard"] = interpose.refcount_guard_counts()
    # `doubled` has put a function of its own over the guard's, which then cannot be taken back.
    if told["guard"]["attached"] and what != "doubled":
        told["forked"] = fork_has_guard_of_its_own()
    states = {each.name: str(each.state) for each in mantaray.overlay.status()}
    told["patch"] = states.get("refcount")
    ray.shutdown()
    print(json.dumps(told))


def main() -> None:
    if sys.argv[1] == "drive":
        drive(sys.argv[2], sys.argv[3:])
        return
    delays = {"RAY_testing_asio_delay_us": DELAYS} if sys.argv[1] == "delayed" else {}
    done = subprocess.run(
        [sys.executable, __file__, "drive", *sys.argv[1:]],
        capture_output=True,
        text=True,
        env=os.environ | delays,
    )
    checks = [line for line in done.stderr.splitlines() if "Check failed" in line]
    rounds = [
        json.loads(line)["rounds"] for line in done.stderr.splitlines() if '{"rounds"' in line
    ]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    ended = {
        "status": done.returncode,
        "check": checks[0].split("Check failed: ")[1].strip() if checks else None,
        "rounds": rounds[-1] if rounds else 0,
        "told": json.loads(lines[-1]) if lines else None,
        "notices": [line for line in done.stderr.splitlines() if "mantaray: refcount" in line],
    }
    if done.returncode > 0:
        print(done.stderr[-4_000:], file=sys.stderr)
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
