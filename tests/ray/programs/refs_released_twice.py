"""An object that contains a reference goes out of scope twice in a borrower; what becomes of the borrower.

Usage: refs_released_twice.py borrowed-again | late-question

The borrower takes the inner reference out of an outer object, and starts a task with the outer one whose
large result it keeps: so Ray keeps the outer object's entry for the task, which may have to run again.
Then the borrower drops the outer object. `borrowed-again`: it is lent the outer object once more, and
drops it. `late-question`: it drops the outer object after its task has told the owner that it still uses
it, while the owner is suspended for half a second; then the owner asks it to say when it lets go.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import mantaray.overlay
import ray
from mantaray.refs.node import figures

INNER_BYTES = 200_000
SUSPENDED_S = 0.5
# Suspends a process, as a busy machine does.
SUSPEND = f"""
import os, signal, sys, time
os.kill(int(sys.argv[1]), signal.SIGSTOP)
print("suspended", flush=True)
time.sleep({SUSPENDED_S})
os.kill(int(sys.argv[1]), signal.SIGCONT)
"""


@ray.remote(num_cpus=0)
def large_result(_: Any) -> bytes:
    """Return what is too large to travel in a message, so that it is kept with its lineage."""
    return bytes(500_000)


@ray.remote(num_cpus=0)
class Borrower:
    """Keeps what it finds in the outer object, and a result that needs the outer object."""

    def take(self, refs: list[Any]) -> None:
        self.inner = ray.get(refs[0])[0]
        self.result = large_result.remote(refs[0])
        ray.wait([self.result])

    def take_and_drop_late(self, refs: list[Any], owner: int) -> None:
        self.take(refs)
        self.outer = refs[0]
        stop = subprocess.Popen(
            [sys.executable, "-S", "-c", SUSPEND, str(owner)], stdout=subprocess.PIPE, text=True
        )
        assert stop.stdout is not None
        stop.stdout.readline()
        # After the report of this task, and before the owner goes on.
        threading.Timer(SUSPENDED_S / 2, self._drop_outer).start()

    def _drop_outer(self) -> None:
        del self.outer

    def look(self, _: list[Any]) -> None:
        """Borrow the outer object for as long as this call takes."""

    def read(self) -> int:
        return len(ray.get(self.inner))

    def drop(self) -> None:
        del self.inner, self.result

    def told(self) -> dict[str, Any]:
        from mantaray.refs.guard import nesting_counts

        return {"left": len(table()), "guard": nesting_counts()}


def table() -> dict[bytes, dict[str, int]]:
    """Return the counts of the objects in this process's table."""
    counts: dict[bytes, dict[str, int]] = (
        ray._private.worker.global_worker.core_worker.get_all_reference_counts()
    )
    return counts


def wait_for(what: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """Wait until something holds; return whether it did within the time."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def play(borrower: Any, way: str) -> dict[str, Any]:
    """Let the borrower release the outer object twice; return what became of everything."""
    inner = ray.put(bytes(INNER_BYTES))
    outer = ray.put([inner])
    names = [inner.hex().encode(), outer.hex().encode()]
    if way == "borrowed-again":
        ray.get(borrower.take.remote([outer]))
        for _ in range(3):
            ray.get(borrower.look.remote([outer]))
    else:
        ray.get(borrower.take_and_drop_late.remote([outer], os.getpid()))
        time.sleep(2 * SUSPENDED_S)
    del inner, outer
    told: dict[str, Any] = {"read": ray.get(borrower.read.remote()) == INNER_BYTES}
    ray.get(borrower.drop.remote())
    told["gone"] = wait_for(lambda: not any(name in table() for name in names))
    told["borrower"] = ray.get(borrower.told.remote())
    counted = told["borrower"]["guard"]["repeated_releases"]
    told["metric"] = wait_for(lambda: repeated_releases_of_node() == counted)
    return told


def repeated_releases_of_node() -> float:
    """Return what the agent of this node exports."""
    node = ray._private.worker.global_worker.node
    exported = figures(node.get_session_dir_path(), ray.get_runtime_context().get_node_id())
    (found,) = [each.value for each in exported if each.name == "mantaray_refs_repeated_releases"]
    return found


def main() -> None:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=True,
        logging_level="ERROR",
        object_store_memory=100_000_000,
    )
    borrower = Borrower.remote()
    try:
        told: dict[str, Any] = {"died": False} | play(borrower, sys.argv[1])
    except ray.exceptions.ActorDiedError:
        # Its last words come through the driver's standard error a moment later.
        time.sleep(3)
        told = {"died": True}
    states = {each.name: str(each.state) for each in mantaray.overlay.status()}
    told["patch"] = states.get("nesting")
    ray.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
