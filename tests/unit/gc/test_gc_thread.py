"""The collector's thread: never the caller's, joined, gone after a fork, alive after an error."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from mantaray.gc.model import Counts
from mantaray.gc.thread import CollectorThread


class Recorder:
    """Stands in for a collector: notes which threads step."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.at_work = threading.RLock()
        self.triggers = 0
        self.stepped_by: list[threading.Thread] = []
        self.act: Callable[[], float | None] = lambda: None
        self.restarts = 0

    def trigger(self) -> None:
        self.triggers += 1

    def step(self) -> float | None:
        with self.at_work:
            self.stepped_by.append(threading.current_thread())
            return self.act()

    def restart(self) -> None:
        self.restarts += 1
        self.at_work = threading.RLock()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def thread(recorder: Recorder) -> Iterator[CollectorThread]:
    thread = CollectorThread(recorder)  # type: ignore[arg-type]
    thread.open()
    yield thread
    thread.close()


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_trigger_never_collects_on_the_thread_that_received_it(
    recorder: Recorder, thread: CollectorThread
) -> None:
    thread.trigger()
    assert wait_until(lambda: len(recorder.stepped_by) > 0)
    assert threading.current_thread() not in recorder.stepped_by


def test_process_without_triggers_has_no_thread(thread: CollectorThread) -> None:
    assert not thread.is_running


def test_triggers_during_a_collection_do_not_wait_for_it(
    recorder: Recorder, thread: CollectorThread
) -> None:
    go_on = threading.Event()

    def act() -> None:
        go_on.wait(60)

    recorder.act = act
    thread.trigger()
    assert wait_until(lambda: len(recorder.stepped_by) == 1)
    for _ in range(100):
        thread.trigger()
    assert len(recorder.stepped_by) == 1
    go_on.set()
    assert wait_until(lambda: len(recorder.stepped_by) == 2)
    assert recorder.triggers == 101


def test_close_joins_and_takes_no_more_triggers(
    recorder: Recorder, thread: CollectorThread
) -> None:
    thread.trigger()
    assert wait_until(lambda: thread.is_running)
    thread.close()
    assert not any(t.name == "mantaray-gc" for t in threading.enumerate())
    thread.trigger()
    assert recorder.triggers == 1
    thread.open()
    thread.trigger()
    assert recorder.triggers == 2


def test_collector_that_raises_is_logged_and_goes_on(
    recorder: Recorder, thread: CollectorThread, caplog: pytest.LogCaptureFixture
) -> None:
    def act() -> None:
        raise RuntimeError("boom")

    recorder.act = act
    with caplog.at_level(logging.ERROR):
        thread.trigger()
        assert wait_until(lambda: recorder.counts.failures > 0)
    assert "boom" in caplog.text
    recorder.act = lambda: None
    thread.trigger()
    assert wait_until(lambda: len(recorder.stepped_by) >= 2)


def test_step_is_repeated_after_the_time_it_names(
    recorder: Recorder, thread: CollectorThread
) -> None:
    recorder.act = lambda: 0.01
    thread.trigger()
    assert wait_until(lambda: len(recorder.stepped_by) > 5)


def test_child_of_a_fork_has_no_thread_and_can_start_one(
    recorder: Recorder, thread: CollectorThread
) -> None:
    def act() -> float:
        time.sleep(0.2)
        return 0.0

    recorder.act = act
    thread.trigger()
    assert wait_until(lambda: len(recorder.stepped_by) > 0)
    # In the middle of a collection: the fork waits for its end.
    child = os.fork()
    if child == 0:
        status = 1
        try:
            stepped = len(recorder.stepped_by)
            if not thread.is_running and recorder.restarts == 1:
                thread.trigger()
                status = 0 if wait_until(lambda: len(recorder.stepped_by) > stepped) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert thread.is_running
