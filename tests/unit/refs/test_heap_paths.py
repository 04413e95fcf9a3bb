"""The path to a reference, from a search in a copy of a process.

The programs run in processes of their own, because a search looks at the whole heap of its process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

_PRELUDE = """
import functools, gc, json, sys, threading, time
from mantaray.refs.forked import LookError, look
from mantaray.refs.heap_paths import HeapPaths

class Ref(bytes):
    '''As Ray's, it is not tracked by the collector, and tells its id.'''
    __slots__ = ()
    def binary(self):
        return bytes(self)

def search(name, known=(), timeout_s=60, max_stop_ms=10_000):
    paths = HeapPaths(Ref, name.encode(), list(known), timeout_s)
    done = look(paths.find, timeout_s=timeout_s, max_stop_ms=max_stop_ms)
    return json.loads(done.told)
"""
_HOLDERS = """
class Actor:
    def __init__(self):
        self.kept = [0, {"key": Ref(b"actor")}]

class Slots:
    __slots__ = ("a",)

def enclose():
    other, mine = 1, Ref(b"closure")
    def inner():
        return other, mine
    return inner

class Node:
    def __init__(self):
        self.me, self.ref = self, Ref(b"cycle")

def fail():
    ref = Ref(b"exception")
    raise ValueError("x")

def run():
    mine, box = Ref(b"frame"), [{"q": Ref(b"in frame")}]
    waiting.set()
    time.sleep(1_000)

def generate():
    r = Ref(b"generator")
    yield 1
    print(r)

gc.disable()
Node()
actor, closure, slots, generator = Actor(), enclose(), Slots(), generate()
slots.a = (Ref(b"slot"),)
next(generator)
CACHE = {"a": [1, 2, Ref(b"global")]}
part = functools.partial(print, Ref(b"partial"))
some = {Ref(b"set")}
try:
    fail()
except ValueError as error:
    last_error = error
waiting = threading.Event()
threading.Thread(target=run, daemon=True, name="T1").start()
waiting.wait()
gc.freeze()
names = "actor global closure cycle exception slot frame generator set partial nobody".split()
print(json.dumps({name: search(name, [("actor Actor", actor)]) for name in [*names, "in frame"]}))
"""


def told(program: str) -> Any:
    command = [sys.executable, "-c", _PRELUDE + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def holders() -> Any:
    return told(_HOLDERS)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("actor", "actor Actor.kept[1]['key']"),
        ("global", "module __main__, global CACHE['a'][2]"),
        ("slot", "module __main__, global slots.a[0]"),
        ("set", "module __main__, global some -> a member of the set"),
        ("partial", "module __main__, global part.args[0]"),
    ],
)
def test_path_leads_from_where_a_program_keeps_things(holders: Any, name: str, path: str) -> None:
    assert holders[name] == {"references": 1, "paths": [path], "cut_off": False}


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("closure", "module __main__, global closure -> closure variable mine of ", ")"),
        ("exception", "module __main__, global last_error -> traceback of ValueError", ")"),
        ("generator", "module __main__, global generator -> local r of generate (", ")"),
        ("frame", "thread T1, run (", "local mine"),
        ("in frame", "thread T1, run (", "local box[0]['q']"),
    ],
)
def test_path_names_function_and_line(holders: Any, name: str, begin: str, end: str) -> None:
    (path,) = holders[name]["paths"]
    assert path.startswith(begin)
    assert path.endswith(end)
    assert "<string>:" in path
    assert name != "exception" or "local ref of fail" in path


def test_reference_cycle_is_told_from_what_a_program_can_reach(holders: Any) -> None:
    (path,) = holders["cycle"]["paths"]
    # In Python 3.10 the dictionary of an instance is a part of the cycle that can be seen.
    first = "dict['ref']" if sys.version_info < (3, 11) else "Node.ref"
    assert path.startswith(f"a reference cycle: {first}; no module, function or actor leads to it")


def test_object_without_references_has_no_paths(holders: Any) -> None:
    assert holders["nobody"] == {"references": 0, "paths": [], "cut_off": False}


def test_search_leaves_the_process_as_it_was() -> None:
    program = """
class Dies:
    def __del__(self):
        print("not json", flush=True)
kept = Ref(b"x")
keep_alive = Dies()
gc.freeze()
frozen = gc.get_freeze_count()
found = search("x")
same = gc.get_freeze_count() == frozen and gc.isenabled()
import os
try:
    os.waitpid(-1, os.WNOHANG)
    children = True
except ChildProcessError:
    children = False
print(json.dumps([found["references"], same, children, sys.getrefcount(kept)]), flush=True)
os._exit(0)
"""
    assert told(program) == [1, True, False, 2]


def test_process_whose_memory_takes_too_long_to_copy_is_not_stopped() -> None:
    program = """
big = bytearray(400_000_000)
try:
    search("x", max_stop_ms=1)
except LookError as error:
    print(json.dumps(str(error)))
"""
    assert "GB of memory cannot be copied within 1 ms; allow " in told(program)


def test_search_that_takes_too_long_is_ended_and_tells_so() -> None:
    program = """
def hang():
    while True:
        pass
try:
    look(hang, timeout_s=0.2, max_stop_ms=10_000)
except LookError as error:
    print(json.dumps(str(error)))
"""
    assert told(program) == "the search was not finished after 0.2 s"


def test_search_goes_on_beside_threads_that_fight_for_the_interpreter() -> None:
    program = """
kept = [Ref(b"x")]
done = False
def spin():
    while not done:
        pass
threads = [threading.Thread(target=spin) for _ in range(3)]
for thread in threads:
    thread.start()
found = [search("x")["references"] for _ in range(5)]
done = True
print(json.dumps(found))
"""
    assert told(program) == [1] * 5
