"""Finalizers without Ray: the manners of weakref.finalize, pacing, and what must not stop them."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from mantaray.refs import finalizers
from mantaray.refs.finalizers import finalize


class Ref:
    """A reference to an object; also an object that weakref can watch."""

    def __init__(self, name: str = "x") -> None:
        self.name = name

    def binary(self) -> bytes:
        return self.name.encode()

    def hex(self) -> str:
        return self.name


class Session:
    """Ray, as far as finalizers see it: objects are gone when the test says so."""

    latest: Session
    tells = False

    def __init__(self, on_gone: Callable[[Any, bytes], None]) -> None:
        self.on_gone = on_gone
        self.ended = False
        self.current = True
        self.is_driver = True
        self.dropped: set[bytes] = set()
        self.refs: dict[bytes, Ref] = {}
        self.look: Callable[[], None] = lambda: None
        Session.latest = self

    def is_current(self) -> bool:
        return self.current and not self.ended

    def is_over(self) -> bool:
        return True

    def end(self) -> None:
        self.ended = True

    def check_owner(self, ref: Ref) -> None:
        self.refs[ref.binary()] = ref

    def watch(self, ref: Ref) -> bool:
        return ref.binary() not in self.dropped

    def must_look_at(self, ids: Sequence[bytes]) -> Sequence[bytes]:
        return () if self.tells else ids

    def gone(self, ids: Sequence[bytes]) -> list[bytes]:
        self.look()
        return [each for each in ids if each in self.dropped]

    def released(self, ids: Sequence[bytes], budget_s: float) -> tuple[list[bytes], int]:
        return [], len(ids)

    def make_ref(self, object_id: bytes) -> Ref | None:
        return None if object_id in self.dropped else self.refs[object_id]


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[finalizers._Process]:
    """Finalizers of their own, which look every 5 ms."""
    fresh = finalizers._Process()
    monkeypatch.setattr(finalizers, "_PROCESS", fresh)
    monkeypatch.setattr(finalizers, "Session", Session)
    monkeypatch.setattr(finalizers, "_check", lambda ref, callback: None)
    monkeypatch.setenv("MANTARAY_REFS_WATCH_INTERVAL_MS", "5")
    yield fresh
    fresh.exit()


def wait_until(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return bool(condition())


def _manners(make: Callable[..., Any], end: Callable[[Ref], None]) -> list[object]:
    """Do everything that can be done with a finalizer; return what could be seen."""
    calls: list[object] = []

    def called(*args: object, **kwargs: object) -> str:
        calls.append((args, kwargs))
        return "result"

    seen: list[object] = []
    ref = Ref("one")
    f = make(ref, called, 1, b=2)
    seen += [f.alive, f.atexit, f.peek() == (ref, called, (1,), {"b": 2})]
    f.atexit = 0
    seen += [f.atexit, f.alive, f(), f.alive, f(), f.peek(), f.detach(), list(calls)]
    f.atexit = True
    seen += [f.atexit, f("ignored")]
    g = make(ref, called, 3)
    seen += [g.detach() == (ref, called, (3,), {}), g.detach(), g.alive, g(), len(calls)]
    h = make(ref, called, 4)
    i = make(ref, called, 5)
    end(ref)
    del ref
    gc.collect()
    seen += [wait_until(lambda: not h.alive and not i.alive), calls[1:], h(), h.detach(), h.peek()]
    return seen


def test_manners_are_those_of_weakref(process: finalizers._Process) -> None:
    theirs = _manners(weakref.finalize, lambda ref: None)
    ours = _manners(finalize, lambda ref: Session.latest.dropped.add(ref.binary()))
    assert ours == theirs


def test_finalizer_keeps_no_reference(process: finalizers._Process) -> None:
    ref = Ref()
    finalize(ref, print)
    Session.latest.refs.clear()
    watch = weakref.ref(ref)
    del ref
    gc.collect()
    assert watch() is None
    process._reset()


def test_look_that_costs_much_is_rare(process: finalizers._Process) -> None:
    def work() -> None:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass

    f = finalize(Ref(), print)
    Session.latest.look = work
    start = time.monotonic()
    process._look()
    assert process._next_look_s - start >= 0.05 / finalizers._LOOK_SHARE
    f.detach()


def test_look_that_waits_for_others_delays_no_later_one(process: finalizers._Process) -> None:
    f = finalize(Ref(), print)
    # The longer it waits, the less it matters how long this thread does for a processor.
    Session.latest.look = lambda: time.sleep(0.3)
    start = time.monotonic()
    process._look()
    assert process._next_look_s - start < 0.3 / finalizers._LOOK_SHARE
    f.detach()


def test_look_that_fails_is_logged_and_the_next_one_follows(
    process: finalizers._Process, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    finalize(Ref(), calls.append, 1)
    failures = iter([OSError("cut off")] * 2)

    def fail() -> None:
        error = next(failures, None)
        if error:
            raise error

    Session.latest.look = fail
    Session.latest.dropped.add(b"x")
    assert wait_until(lambda: calls == [1])
    assert "cut off" in caplog.text


def test_news_of_an_older_session_is_not_taken_for_the_same_id_of_this_one(
    process: finalizers._Process,
) -> None:
    calls: list[str] = []
    finalize(Ref(), calls.append, "old")
    old = Session.latest
    old.current = False
    assert wait_until(lambda: calls == ["old"])
    new = finalize(Ref(), calls.append, "new")
    assert Session.latest is not old
    old.on_gone(old, b"x")
    other = finalize(Ref("other"), calls.append, "other")
    Session.latest.on_gone(Session.latest, b"other")
    assert wait_until(lambda: not other.alive)
    assert new.alive
    assert calls == ["old", "other"]


def test_object_that_is_gone_at_once_is_told(process: finalizers._Process) -> None:
    calls: list[int] = []
    first = finalize(Ref("first"), print)
    Session.latest.dropped.add(b"x")
    finalize(Ref(), calls.append, 1)
    assert wait_until(lambda: calls == [1])
    first.detach()


def test_callback_that_makes_and_ends_finalizers_does_not_lock_up(
    process: finalizers._Process,
) -> None:
    calls: list[str] = []

    def callback() -> None:
        other.detach()
        finalize(Ref("again"), calls.append, "again")
        Session.latest.dropped.add(b"again")

    other = finalize(Ref("other"), calls.append, "wrong")
    finalize(Ref(), callback)
    Session.latest.dropped |= {b"x"}
    assert wait_until(lambda: calls == ["again"])
    assert not other.alive


def test_exit_calls_the_newest_first_and_what_is_gone_in_any_case(
    process: finalizers._Process, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[object] = []
    finalize(Ref("a"), calls.append, 1)
    finalize(Ref("b"), calls.append, 2)
    finalize(Ref("c"), calls.append, "not at exit").atexit = False
    finalize(Ref("d"), lambda: 1 / 0)
    finalize(Ref("e"), lambda: finalize(Ref("f"), calls.append, "made at exit"))
    Session.latest.look = lambda: time.sleep(0.001)
    gone = finalize(Ref("g"), calls.append, "gone")
    gone.atexit = False
    Session.latest.dropped.add(b"g")
    process.exit()
    assert calls == ["gone", "made at exit", 2, 1]
    assert "ZeroDivisionError" in caplog.text


def test_exit_does_not_lose_what_ray_has_not_told_yet(
    process: finalizers._Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "tells", True)
    calls: list[str] = []
    finalize(Ref("a"), calls.append, "left")
    finalize(Ref("b"), calls.append, "gone").atexit = False
    finalize(Ref("c"), calls.append, "not at exit").atexit = False
    session = Session.latest
    session.dropped.add(b"b")
    process.exit()
    session.on_gone(session, b"b")
    process.exit()
    assert calls == ["gone", "left"]


def test_shutdown_calls_first_what_ray_has_not_told_yet(
    process: finalizers._Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "tells", True)
    calls: list[str] = []
    finalize(Ref("a"), calls.append, "gone")
    last = finalize(Ref("b"), calls.append, "lost with its owner")
    session = Session.latest
    session.dropped.add(b"a")
    process.end_session()
    session.on_gone(session, b"a")
    assert wait_until(lambda: not last.alive)
    process.exit()
    assert calls == ["gone", "lost with its owner"]


def test_exit_waits_for_a_callback_that_runs(process: finalizers._Process) -> None:
    calls: list[str] = []
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        time.sleep(0.2)
        calls.append("slow")

    finalize(Ref(), slow)
    Session.latest.dropped.add(b"x")
    assert begun.wait(60)
    process.exit()
    assert calls == ["slow"]


def test_child_process_calls_nothing(process: finalizers._Process) -> None:
    calls: list[int] = []
    finalize(Ref(), calls.append, 1)
    child = os.fork()
    if child == 0:
        process._reset()  # what the module asks for after every fork
        process.exit()
        os._exit(len(calls))
    assert os.waitpid(child, 0)[1] == 0
    assert calls == []
