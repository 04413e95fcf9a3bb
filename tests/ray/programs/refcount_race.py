"""Provokes two notices about one borrower in a driver, and tells what became of the objects.

Usage: refcount_race.py doubled [ORDER...] | killed SECONDS

`doubled` puts a function into the slot through which Ray handles a notice. It delivers each notice of a
borrower twice: the same one, or with a failure of the borrower before or after it. `killed` changes
nothing of Ray's: borrowers are lent objects and let go of others all the time, and are killed while the
driver is suspended for a moment.

The driver runs in a process of its own, which may die. The last line says how it ended, and what it told.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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
_METHOD = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)
# Suspends the driver, as a busy machine does. Then the last message of a borrower and its death arrive
# together.
# A line is: whom to kill, when, and how long after the driver was suspended, in seconds.
KILLER = """
import os, signal, sys, time
driver = int(sys.argv[1])
for line in sys.stdin:
    pid, wait_s, after_s = line.split()
    time.sleep(float(wait_s))
    os.kill(driver, signal.SIGSTOP)
    try:
        time.sleep(float(after_s))
        os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.03)
    finally:
        os.kill(driver, signal.SIGCONT)
"""
ORDERS = ("removed-twice", "failed-then-removed", "removed-then-failed")
_KEPT: list[Any] = []
BORROWERS = 2
# A round has so many calls of each borrower, with so many objects each.
CALLS = 300
OBJECTS = 5


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

    Attributes:
        order: one of ORDERS.
        seen: how many notices came.
    """

    def __init__(self) -> None:
        """Take over the slot, for good."""
        self.order = ORDERS[0]
        self.seen = 0
        self._deliver()

    def _deliver(self) -> None:
        held = interpose.held(RAYLET, CLEANUP)
        handle = _METHOD(held)
        empty = empty_table()
        failed = ctypes.addressof(empty)

        def twice(counter: int, message: int, object_id: int, borrower: int) -> None:
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

    def pid(self) -> int:
        return os.getpid()

    def keep_only(self, refs: list[Any]) -> None:
        self.kept = refs

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
        doubler.order, doubler.seen = order, 0
        ref = ray.put(b"x" * 200_000)
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
    return told


def killed(seconds: float) -> dict[str, Any]:
    """Borrowers are lent objects and let go of others all the time, and are killed meanwhile."""
    rounds = 0
    deadline = time.monotonic() + seconds
    killer = subprocess.Popen(
        [sys.executable, "-S", "-c", KILLER, str(os.getpid())], stdin=subprocess.PIPE, text=True
    )
    assert killer.stdin is not None
    borrowers = [
        Borrower.options(max_restarts=-1, max_task_retries=-1).remote() for _ in range(BORROWERS)
    ]
    while time.monotonic() < deadline:
        pids = ray.get([borrower.pid.remote() for borrower in borrowers])
        # So that deaths fall into every moment between the first call and the last.
        for number, pid in enumerate(pids):
            turn = rounds * BORROWERS + number
            say = f"{pid} {turn % 20 * 0.01} {turn % 7 * 0.001}\n"
            killer.stdin.write(say)
        killer.stdin.flush()
        names: set[bytes] = set()
        calls = []
        for _ in range(CALLS):
            refs = [ray.put(bytes(10)) for _ in range(OBJECTS)]
            names.update(ref.hex().encode() for ref in refs)
            calls += [
                borrower.keep_only.options(max_task_retries=0).remote(refs)
                for borrower in borrowers
            ]
            del refs
        for call in calls:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(call)
        del calls, call
        rounds += 1
        print(json.dumps({"rounds": rounds}), file=sys.stderr, flush=True)
        # A restarted borrower has forgotten what it held; the others let go.
        ray.get([borrower.drop.remote() for borrower in borrowers])
        if not wait_for(lambda names=names: table().keys().isdisjoint(names)):  # type: ignore[misc]
            return {"rounds": rounds, "gone": False}
    killer.stdin.close()
    killer.wait()
    return {"rounds": rounds, "gone": True}


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
    told = killed(float(arguments[0])) if what == "killed" else doubled(arguments or ORDERS)
    # Actors and what they were told went with their handles.
    told["empty"] = wait_for(lambda: not table())
    told["left"] = {name.decode(): counts for name, counts in table().items()}
    told["guard"] = interpose.refcount_guard_counts()
    states = {each.name: str(each.state) for each in mantaray.overlay.status()}
    told["patch"] = states.get("refcount")
    ray.shutdown()
    print(json.dumps(told))


def main() -> None:
    if sys.argv[1] == "drive":
        drive(sys.argv[2], sys.argv[3:])
        return
    done = subprocess.run(
        [sys.executable, __file__, "drive", *sys.argv[1:]], capture_output=True, text=True
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
