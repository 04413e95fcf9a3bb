"""The thread that runs a collector: the first trigger starts it, and the end of Ray joins it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from mantaray.gc.collector import Collector

_LOG = logging.getLogger(__name__)
_NAME = "mantaray-gc"
_AFTER_FAILURE_S = 1.0
_JOIN_TIMEOUT_S = 10.0


class CollectorThread:
    """Runs `Collector.step` when a trigger comes, and at the time that the step asked for.

    Args:
        collector: what to run.
        after_step: called after each step; returns whether it wants to be called again soon.
        soon_s: how soon that is, in seconds.
    """

    def __init__(
        self,
        collector: Collector,
        after_step: Callable[[], bool] = lambda: False,
        soon_s: float = 0.5,
    ) -> None:
        self._collector = collector
        self._after_step = after_step
        self._soon_s = soon_s
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._open = False
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork_in_parent,
            after_in_child=self._after_fork_in_child,
        )

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def open(self) -> None:
        """Take triggers from now on."""
        self._open = True

    def trigger(self) -> None:
        """Ask for a collection and return at once. Any thread may call this."""
        with self._lock:
            if not self._open:
                return
            self._collector.trigger()
            self._run_now()

    def wake(self) -> None:
        """Take the collector's next step now. Any thread may call this."""
        with self._lock:
            if self._open:
                self._run_now()

    def _run_now(self) -> None:
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Take no more triggers, wait for a collection in progress, and join the thread."""
        with self._lock:
            self._open = False
            thread, self._thread = self._thread, None
            self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_TIMEOUT_S)

    def _run(self) -> None:
        this = threading.current_thread()
        while self._thread is this:
            wait_s = self._step()
            if self._thread is this:
                self._wake.wait(wait_s)
                self._wake.clear()

    def _step(self) -> float | None:
        """Return how long to wait for a trigger, in seconds; None if without a limit."""
        try:
            wait_s = self._collector.step()
            if self._after_step():
                wait_s = self._soon_s if wait_s is None else min(wait_s, self._soon_s)
            return wait_s
        except Exception:
            _LOG.exception("a garbage collection that Ray asked for failed")
            self._collector.counts.failures += 1
            return _AFTER_FAILURE_S

    def _before_fork(self) -> None:
        # The locks are taken in this order everywhere. No collection may be in progress, and no
        # thread starting.
        self._collector.at_work.acquire()
        self._lock.acquire()

    def _after_fork_in_parent(self) -> None:
        self._lock.release()
        self._collector.at_work.release()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None
        self._collector.restart()
