"""Searches in a forked child and the guard of automatic collections, on the real heap of a process.

Each test runs a program, because what it does to the garbage collector must not touch pytest's process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mantaray.memory import available_bytes

import mantaray
from tests.support.damaged_native import DAMAGES, copy_mantaray, damage

_PRELUDE = """
import gc, json, os, signal, sys, threading, time, weakref
from mantaray._native import gc as native

class Knot:
    dead = 0
    def __init__(self, tied=True):
        self.itself = self if tied else None
    def __del__(self):
        Knot.dead += 1

def ring(count):
    nodes = [Knot(tied=False) for _ in range(count)]
    for node, after in zip(nodes, nodes[1:] + nodes[:1]):
        node.itself = after
    return nodes[0]

def wait_for(scan):
    while (done := scan.poll()) is None:
        time.sleep(0.002)
    return done

def free(scan, limit=1_000):
    freed = []
    while scan.left:
        scan.bring(limit)
        freed.append(gc.collect(0))
    return freed

told = {}
gc.disable()
gc.collect()
"""
_EPILOGUE = "\nprint(json.dumps(told))\n"

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="the lists of Python 3.14's collector are not known"
)


def run(program: str) -> Any:
    """Run a program in an interpreter of its own; return what it has told."""
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + program + _EPILOGUE],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_garbage_among_frozen_objects_is_found_and_finalized_once() -> None:
    told = run("""
knots, callbacks = [Knot() for _ in range(500)], []
kept = [Knot() for _ in range(500)]
watched = [weakref.ref(knot, lambda _: callbacks.append(1)) for knot in knots]
gc.freeze()
knots.clear()
scan = native.HeapScan()
told["done"] = wait_for(scan)
told["before"] = Knot.dead
free(scan)
told |= {"dead": Knot.dead, "callbacks": len(callbacks), "stale": scan.stale,
         "kept": sum(knot.itself is knot for knot in kept)}
""")
    assert told == {
        "done": True,
        "before": 0,
        "dead": 500,
        "callbacks": 500,
        "stale": 0,
        "kept": 500,
    }


def test_cycle_larger_than_a_step_is_freed_whole() -> None:
    told = run("""
first = ring(5_000)
gc.freeze()
del first
scan = native.HeapScan()
wait_for(scan)
told["freed"] = free(scan, limit=10)
told["dead"] = Knot.dead
""")
    assert told["dead"] == 5_000
    assert max(told["freed"]) >= 5_000


def test_finalizers_do_not_run_in_the_child() -> None:
    told = run("""
import tempfile
path = tempfile.mktemp()
class Traced(Knot):
    def __del__(self):
        open(path, "a").write(f"{os.getpid()} ")
knots = [Traced() for _ in range(3)]
gc.freeze()
knots.clear()
scan = native.HeapScan()
told["done"] = wait_for(scan)
told["written by the child"] = os.path.exists(path)
free(scan)
told["all by the parent"] = set(open(path).read().split()) == {str(os.getpid())}
os.unlink(path)
""")
    assert told == {"done": True, "written by the child": False, "all by the parent": True}


def test_objects_freed_during_a_search_are_passed_over() -> None:
    told = run("""
knots = [Knot() for _ in range(2_000)]
watched = [weakref.ref(knot) for knot in knots]
gc.freeze()
knots.clear()
scan = native.HeapScan()
wait_for(scan)
for reference in watched[:1_000]:
    reference().itself = None  # Found again by a weak reference, and freed by its count.
free(scan)
told |= {"stale": scan.stale, "dead": Knot.dead, "alive": sum(r() is not None for r in watched)}
""")
    # In Python 3.10 each instance has a dictionary of its own, which is passed over, too.
    each = 2 if sys.version_info < (3, 11) else 1
    assert told == {"stale": 1_000 * each, "dead": 2_000, "alive": 0}


def test_memory_reused_during_a_search_keeps_its_new_objects() -> None:
    told = run("""
knots = [Knot() for _ in range(2_000)]
watched = [weakref.ref(knot) for knot in knots]
gc.freeze()
knots.clear()
scan = native.HeapScan()
wait_for(scan)
for reference in watched[:1_000]:
    reference().itself = None  # Found again by a weak reference, and freed by its count.
reused = [Knot() for _ in range(3_000)]
others = [[] for _ in range(3_000)]
free(scan)
told |= {"dead": Knot.dead, "alive": sum(r() is not None for r in watched),
         "reused": all(knot.itself is knot for knot in reused)}
""")
    assert told == {"dead": 2_000, "alive": 0, "reused": True}


def test_object_found_again_by_a_weak_reference_is_not_freed() -> None:
    told = run("""
knot = Knot()
watched = weakref.ref(knot)
gc.freeze()
del knot
scan = native.HeapScan()
wait_for(scan)
again = watched()
free(scan)
told |= {"dead": Knot.dead, "same": again is watched() and again.itself is again}
""")
    assert told == {"dead": 0, "same": True}


def test_killed_child_is_a_failed_search_and_leaves_no_zombie() -> None:
    told = run("""
live = [[i] for i in range(300_000)]
scan = native.HeapScan()
children = open(f"/proc/self/task/{threading.get_native_id()}/children").read().split()
told["children"] = len(children)
for child in children:
    os.kill(int(child), signal.SIGKILL)
told["done"] = wait_for(scan)
told["left"] = [scan.left, open(f"/proc/self/task/{threading.get_native_id()}/children").read()]
""")
    assert told == {"children": 1, "done": False, "left": [0, ""]}


def test_child_holds_no_descriptor_open() -> None:
    told = run("""
import socket
live = [[i] for i in range(300_000)]
ours, theirs = socket.socketpair()
scan = native.HeapScan()
ours.close()
theirs.settimeout(60)
told["end of file"] = theirs.recv(1) == b""
told["still running"] = scan.poll() is None
scan.stop()
""")
    assert told["end of file"]


def test_lists_are_counted_as_python_counts_them() -> None:
    told = run("""
keep = [[] for _ in range(1_000)]
for generation in range(3):
    told[generation] = abs(
        native.count_objects(generation, generation, 10**9) - len(gc.get_objects(generation))
    )
gc.freeze()
told["frozen"] = abs(native.count_objects(3, 3, 10**9) - gc.get_freeze_count())
told["limit"] = native.count_objects(3, 3, 17)
""")
    assert all(told[str(generation)] < 20 for generation in range(3))
    assert told["frozen"] == 0
    assert told["limit"] == 17


_GUARDED = """
from mantaray.gc.automatic import HeapGuard
from mantaray.gc.collector import Collector
from mantaray.gc.heap import PythonHeap
from mantaray.gc.model import Policy
from mantaray.gc.process import Activity, Buffers, RayProcess
from mantaray.gc.search import ForkSearch

class Process(RayProcess):
    def held(self):
        return 0
    def is_idle(self, for_s):
        return False

gc.enable()
process, done = Process(None, Buffers(), Activity()), []
collector = Collector(
    PythonHeap(), process, Policy(), time.monotonic, cpu_clock=time.thread_time,
    on_collection=done.append, search=ForkSearch(process.blocks, process.rss_bytes),
)
owed = []
guard = HeapGuard(collector, lambda: owed.append(1))
collector._searches.prepare()
guard.attach()
pauses = []
def watch(phase, info):
    pauses.append((info["generation"], time.thread_time()))
gc.callbacks.append(watch)
live = [{"a": [i]} for i in range(500_000)]
def longest(generation):
    pairs = zip(pauses[::2], pauses[1::2])
    return max((end - start for (g, start), (_, end) in pairs if g == generation), default=0.0)
"""


def test_automatic_collections_of_a_growing_heap_visit_little() -> None:
    told = run(
        _GUARDED
        + """
pauses.clear()
more = [{"a": [i]} for i in range(500_000)]
told["automatic"] = longest(2)
start = time.thread_time()
gc.collect()
told["by the program"] = time.thread_time() - start
told["owed"] = len(owed)
told["freezes"] = collector.counts.automatic_freezes
"""
    )
    assert told["freezes"] > 0
    assert told["owed"] >= 1
    # CPU time of one and the same run: the program's own collection visits the whole heap.
    assert told["automatic"] < told["by the program"] / 5


def test_survivor_that_dies_later_is_freed_by_the_programs_own_collection() -> None:
    told = run(
        _GUARDED
        + """
from gc import collect as imported_later
survivors = [Knot() for _ in range(100)]
watched = [weakref.ref(survivor) for survivor in survivors]
more = [{"a": [i]} for i in range(400_000)]
told["frozen"] = native.count_objects(3, 3, 10**9) > 0
survivors.clear()
gc.collect()
told["alive"] = sum(reference() is not None for reference in watched)
told["frozen again"] = native.count_objects(3, 3, 10**9) > 0
"""
    )
    assert told == {"frozen": True, "alive": 0, "frozen again": True}


def test_survivor_that_dies_later_is_found_in_a_busy_process_that_holds_nothing() -> None:
    told = run(
        _GUARDED
        + """
survivors = [Knot() for _ in range(100)]
more = [{"a": [i]} for i in range(400_000)]
survivors.clear()
collector.trigger()
deadline = time.monotonic() + 120
while Knot.dead < 100 and time.monotonic() < deadline:
    collector.step()
    time.sleep(0.02)
told |= {"dead": Knot.dead, "full": collector.counts.full, "searches": collector.counts.searches}
"""
    )
    assert told["dead"] == 100
    assert told["full"] == 0
    assert told["searches"] >= 1


def test_frozen_objects_are_not_hidden_from_the_program() -> None:
    told = run(
        _GUARDED
        + """
more = [{"a": [i]} for i in range(400_000)]
told["frozen"] = native.count_objects(3, 3, 10**9) > 0
told["objects"] = len(gc.get_objects()) > 800_000
told["referrers"] = any(each is live for each in gc.get_referrers(live[7]))
told["count"] = gc.get_freeze_count()
gc.freeze()
told["users"] = gc.get_freeze_count() > 800_000
told["gives way"] = not collector.freezes
gc.unfreeze()
guard.detach()
told["own functions"] = [type(getattr(gc, name)).__name__ for name in ("collect", "freeze")]
"""
    )
    assert told == {
        "frozen": True,
        "objects": True,
        "referrers": True,
        "count": 0,
        "users": True,
        "gives way": True,
        "own functions": ["builtin_function_or_method"] * 2,
    }


def _machine(root: Path, group: str, **files: str) -> dict[str, str]:
    """Lay out what the kernel shows of a machine with 10 GB available and of one control group."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text("MemTotal: 20 kB\nMemAvailable: 10000000 kB\n")
    (root / "proc" / "self" / "cgroup").write_text(f"0::/{group}\n")
    (root / "cgroup" / group).mkdir(parents=True)
    for name, content in files.items():
        (root / "cgroup" / group / name.replace("_", ".", 1)).write_text(content)
    return {"proc": str(root / "proc"), "cgroup_root": str(root / "cgroup")}


def test_limit_of_a_control_group_bounds_what_a_search_may_use(tmp_path: Path) -> None:
    stat = "anon 5\ninactive_file 1000\n"
    files = {"memory_max": "500000", "memory_current": "400000", "memory_stat": stat}
    assert available_bytes(**_machine(tmp_path, "pod", **files)) == 101_000


def test_control_group_without_a_limit_leaves_the_machines_memory(tmp_path: Path) -> None:
    files = {"memory_max": "max\n", "memory_current": "400000", "memory_stat": ""}
    assert available_bytes(**_machine(tmp_path, "pod", **files)) == 10_000_000 * 1024


@pytest.mark.parametrize("kind", DAMAGES)
def test_unusable_native_module_leaves_full_collections_and_does_not_end_the_process(
    tmp_path: Path, kind: str
) -> None:
    """Loading a damaged file ended the driver and the workers, of which each has this patch."""
    words = damage(copy_mantaray(Path(mantaray.__file__).parent, tmp_path), kind)
    program = """
import json
from mantaray.gc.search import ForkSearch
search = ForkSearch(lambda: 0, lambda: 0)
search.prepare()
print(json.dumps([search.is_possible, search.start()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, False]
    (line,) = done.stderr.splitlines()
    assert "garbage of this process is found by full collections only" in line
    assert words in line


def test_heap_gets_into_huge_pages_and_the_search_finds_what_it_found_before() -> None:
    """The fork of a search stalls a process for as long as the kernel copies the entries of its pages."""
    told = run(
        """
from mantaray.gc.process import Blocks
from mantaray.gc.search import ForkSearch

def huge_bytes():
    with open("/proc/self/smaps_rollup") as file:
        line = next(line for line in file if line.startswith("AnonHugePages"))
    return int(line.split()[1]) * 1024

live = [{"a": [i]} for i in range(300_000)]
for _ in range(500):
    Knot()
gc.freeze()
try:
    native.collapse_pages()
    told["can"] = True
except NotImplementedError as error:
    told["can"] = str(error)
before = huge_bytes()
more = [{"a": [i]} for i in range(300_000)]
gc.freeze()
search = ForkSearch(lambda: 1_000_000, lambda: 300_000_000)
search.prepare()
search.collapse_pages()
told["gained"] = huge_bytes() - before
told["started"] = search.start()
wait_for(search)
while search.left():
    search.bring(1_000)
    gc.collect(0)
search.stop()
told["dead"] = Knot.dead
told["whole"] = all(each["a"] == [i] for i, each in enumerate(live)) and len(more) == 300_000
"""
    )
    assert told["started"]
    assert (told["dead"], told["whole"]) == (500, True)
    if told["can"] is not True:
        pytest.skip(f"this kernel collapses no pages: {told['can']}")
    assert told["gained"] > 20_000_000


def test_there_is_no_room_for_a_search_when_memory_is_short() -> None:
    told = run(
        """
import mantaray.gc.search
search = mantaray.gc.search.ForkSearch(lambda: 1_000_000, lambda: 300_000_000)
told["first"] = search.has_room()
mantaray.gc.search.available_bytes = lambda: 1_000_000
told["then"] = search.has_room()
"""
    )
    assert told == {"first": True, "then": False}
