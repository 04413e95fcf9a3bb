"""`finalize`: calls a function in the owner's process when no process can reach an object any more.

Part of `mantaray.refs`. One daemon thread of the process, started by the first finalizer, calls the
functions, one after another. Ray calls back when an object is gone. If it cannot, the thread polls the
objects that have a finalizer; see `mantaray.refs.session`.

Locking: `_Process._lock` guards which finalizers are alive. The lock is reentrant, because the garbage
collector may run a user's code at any moment. No code of the user or of Ray is called under it.
"""

from __future__ import annotations

import atexit
import inspect
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mantaray import settings
from mantaray.refs.session import Session

_LOG = logging.getLogger("mantaray.refs")
# Polling takes at most this share of one processor. With more objects the thread polls less often.
_LOOK_SHARE = 0.1
_RELEASED_BUDGET_S = 0.01
_JOIN_TIMEOUT_S = 10.0
_CORE_END_TIMEOUT_S = 10.0

# An entry of the queue that only wakes the thread.
_NO_ID = b""
_numbers = itertools.count()


class _Call(NamedTuple):
    callback: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class finalize:
    """Calls a function once, here, after no process of the cluster can reach an object any more.

    It is `weakref.finalize` for what an `ObjectRef` stands for. The function is called no matter how the
    other processes let go, even if they crash. All finalizers of the process share one thread, which calls
    it. The caller need not keep the finalizer. A finalizer does not keep the object alive, but it keeps
    `args` and `kwargs`: a reference to the object in them would keep the object for ever.

    Args:
        ref: an object that this process owns, because it called `ray.put` or started the task.
        callback: the function. Its result is dropped, and its exceptions are logged.
        args: positional arguments for it.
        kwargs: keyword arguments for it.

    Raises:
        NotOwnerError: another process owns the object; the error says which.
        TypeError: `ref` is not an object reference, or `callback` is not a plain function.
        ValueError: this process does not know the object.
        RuntimeError: Ray is not initialized in this process.
        SettingError: MANTARAY_REFS_WATCH_INTERVAL_MS has a value that is not allowed.
    """

    __slots__ = ("__weakref__", "_at_exit", "_call", "_id", "_number", "_session")

    def __init__(
        self, ref: Any, callback: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> None:
        """Begin to wait; see the class."""
        _check(ref, callback)
        session = _PROCESS.session_of_now()
        session.check_owner(ref)
        self._session = session
        self._id: bytes = ref.binary()
        self._number = next(_numbers)
        self._at_exit = True
        self._call: _Call | None = _Call(callback, args, kwargs)
        _PROCESS.add(self, ref)

    def __call__(self, _: object = None) -> Any:
        """Call the function now, if the finalizer is alive, and mark it dead.

        Returns:
            What the function returns; None if the finalizer was dead.
        """
        call = _PROCESS.take(self)
        return call.callback(*call.args, **call.kwargs) if call else None

    @property
    def alive(self) -> bool:
        """Whether the function has yet to be called."""
        return self._call is not None

    @property
    def atexit(self) -> bool:
        """Whether the function is called at the exit of the process if the object still lives then."""
        return self.alive and self._at_exit

    @atexit.setter
    def atexit(self, value: bool) -> None:
        if self.alive:
            self._at_exit = bool(value)

    def peek(self) -> tuple[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None:
        """Return (ref, callback, args, kwargs); None if the finalizer is dead or the object gone.

        The reference is a new one, and keeps the object alive like any other.
        """
        call = self._call
        ref = self._session.make_ref(self._id) if call else None
        return (ref, *call) if call and ref is not None else None

    def detach(self) -> tuple[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None:
        """Mark it dead without calling anything; return what `peek` would have returned."""
        seen = self.peek()
        return seen if seen and _PROCESS.take(self) else None

    def __repr__(self) -> str:
        """Say whether it is alive and for which object."""
        state = f"for object {self._id.hex()}" if self.alive else "dead"
        return f"<{type(self).__name__} at {id(self):#x}; {state}>"


class _Process:
    """The finalizers of this process and the thread that calls their functions."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        """Begin with nothing. A forked child does so too: it owns none of its parent's objects."""
        self._lock = threading.RLock()
        self._beginning = threading.RLock()
        self._alive: dict[Session, dict[bytes, list[finalize]]] = {}
        self._news: queue.SimpleQueue[tuple[Session, bytes | None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._exiting = False
        self._interval_s = 0.0
        self._next_look_s = 0.0
        self._looked = 0

    def session_of_now(self) -> Session:
        """Return Ray's current session, and begin a new one if Ray was restarted."""
        current = self._current()
        if current is not None:
            return current
        interval_ms = settings.REFS_WATCH_INTERVAL_MS.read()
        # One at a time, because a new session takes over the callbacks of the previous session.
        with self._beginning:
            current = self._current()
            if current is not None:
                return current
            session = Session(self._told)
            with self._lock:
                self._interval_s = interval_ms / 1_000
                self._alive[session] = {}
        return session

    def add(self, finalizer: finalize, ref: Any) -> None:
        """Register a new finalizer, and ask Ray for a callback or make the thread poll the object."""
        session, object_id = finalizer._session, finalizer._id
        with self._lock:
            waiting = self._alive.setdefault(session, {})
            siblings = waiting.setdefault(object_id, [])
            siblings.append(finalizer)
            is_first = len(siblings) == 1
            # While there is no finalizer, the thread sleeps until it is woken.
            wakes = len(waiting) == 1
            self._start()
        if wakes:
            self._news.put((session, _NO_ID))
        if is_first and not session.watch(ref):
            self._news.put((session, object_id))
        if session.ended:
            self._news.put((session, None))

    def take(self, finalizer: finalize) -> _Call | None:
        """Mark a finalizer dead; return what it was to call, or None if it was dead."""
        with self._lock:
            call, finalizer._call = finalizer._call, None
            waiting = self._alive.get(finalizer._session, {})
            siblings = waiting.get(finalizer._id, [])
            if finalizer in siblings:
                siblings.remove(finalizer)
                if not siblings:
                    del waiting[finalizer._id]
            return call

    def end_session(self) -> None:
        """Handle a shutdown of Ray that is about to begin. The session's objects go with it."""
        for session in self._sessions():
            if session.ended:
                continue
            if not self._exiting:
                self._tell_gone(session)
            session.end()
            self._news.put((session, None))

    def exit(self) -> None:
        """Call the remaining functions, newest first, as weakref.finalize does at the exit of a program."""
        with self._lock:
            self._exiting = True
            thread = self._thread
        for session in self._sessions():
            # The core worker of a worker has ended by now.
            if not session.is_driver:
                session.end()
        self._news.put(None)
        if thread is not None:
            thread.join(_JOIN_TIMEOUT_S)
            if thread.is_alive():
                _LOG.warning("a finalizer does not return; this process exits without it")
        for session in self._sessions():
            # First the functions of objects that are gone, even if Ray has not called back yet.
            if session.is_driver and session.is_current():
                self._look_for_gone(session, self._ids_of(session))
        while (finalizer := self._newest()) is not None:
            _run(finalizer)

    def _current(self) -> Session | None:
        return next((session for session in self._sessions() if session.is_current()), None)

    def _sessions(self) -> list[Session]:
        with self._lock:
            return list(self._alive)

    def _told(self, session: Session, object_id: bytes) -> None:
        self._news.put((session, object_id))

    def _start(self) -> None:
        if self._thread is None and not self._exiting:
            self._thread = threading.Thread(
                target=self._run, name="mantaray-finalizers", daemon=True
            )
            self._thread.start()
            atexit.register(self.exit)

    def _newest(self) -> finalize | None:
        with self._lock:
            left = (
                finalizer
                for waiting in self._alive.values()
                for siblings in waiting.values()
                for finalizer in siblings
                if finalizer._at_exit
            )
            return max(left, key=_number_of, default=None)

    def _run(self) -> None:
        while True:
            try:
                news = self._news.get(timeout=self._pause_s())
            except queue.Empty:
                self._look()
                continue
            if news is None:
                return
            try:
                self._handle(*news)
            except Exception:
                _LOG.exception("the thread of finalizers continues after an error")

    def _pause_s(self) -> float | None:
        with self._lock:
            if not any(self._alive.values()):
                return None
        return max(0.001, self._next_look_s - time.monotonic())

    def _handle(self, session: Session, object_id: bytes | None) -> None:
        """Handle an entry of the queue: an object is gone, or (None) all objects of the session are."""
        if object_id is None:
            _wait_until_over(session)
            self._fire_all(session)
        elif object_id != _NO_ID:
            self._fire(session, object_id)
        if time.monotonic() >= self._next_look_s:
            self._look()

    def _look(self) -> None:
        """Find sessions that have ended and, if Ray does not call back, objects that are gone."""
        start_s = time.monotonic()
        took_s = 0.0
        for session in self._sessions():
            if self._exiting:
                return
            try:
                if session.is_current():
                    unheard_of = session.must_look_at(self._ids_of(session))
                    took_s += self._look_for_gone(session, unheard_of) if unheard_of else 0
                elif not session.ended:
                    session.end()
                    _wait_until_over(session)
                    self._fire_all(session)
            except Exception:
                _LOG.exception("a check of the references failed; the next check follows")
        self._next_look_s = start_s + max(self._interval_s, took_s / _LOOK_SHARE)

    def _tell_gone(self, session: Session) -> None:
        """Call the functions of objects that are gone although Ray has not called back yet."""
        try:
            for object_id in session.gone(self._ids_of(session)):
                self._told(session, object_id)
        except Exception:
            _LOG.exception("a check of the references failed; Ray shuts down all the same")

    def _ids_of(self, session: Session) -> list[bytes]:
        with self._lock:
            return list(self._alive.get(session, ()))

    def _look_for_gone(self, session: Session, ids: Sequence[bytes]) -> float:
        """Call the functions of objects that are gone; return the processor seconds of the check alone."""
        start_s = time.thread_time()
        gone = session.gone(ids)
        self._looked %= len(ids) or 1
        released, looked = session.released(ids[self._looked :], _RELEASED_BUDGET_S)
        self._looked += looked
        took_s = time.thread_time() - start_s
        for object_id in (*gone, *released):
            self._fire(session, object_id)
        return took_s

    def _fire_all(self, session: Session) -> None:
        with self._lock:
            waiting = self._alive.get(session, {})
            left = sorted((f for siblings in waiting.values() for f in siblings), key=_number_of)
        for finalizer in reversed(left):
            _run(finalizer)
        with self._lock:
            if not waiting:
                self._alive.pop(session, None)

    def _fire(self, session: Session, object_id: bytes) -> None:
        while True:
            with self._lock:
                siblings = self._alive.get(session, {}).get(object_id)
                newest = siblings[-1] if siblings else None
            if newest is None:
                return
            _run(newest)


def _number_of(finalizer: finalize) -> int:
    return finalizer._number


def _run(finalizer: finalize) -> None:
    """Call the function of a finalizer, if it is alive, and log what it raises."""
    call = _PROCESS.take(finalizer)
    if call is None:
        return
    try:
        call.callback(*call.args, **call.kwargs)
    except BaseException:
        _LOG.exception("the finalizer %r of object %s failed", call.callback, finalizer._id.hex())


def _wait_until_over(session: Session) -> None:
    deadline = time.monotonic() + _CORE_END_TIMEOUT_S
    while not session.is_over() and time.monotonic() < deadline:
        time.sleep(0.01)


def _check(ref: Any, callback: object) -> None:
    import ray

    kind = type(ref)
    if kind.__module__.startswith("ray.util.client"):
        raise TypeError(
            "a reference of Ray Client is owned by the client's server; call finalize in a task or actor"
        )
    if not isinstance(ref, ray.ObjectRef):
        hint = {
            "ObjectRefGenerator": "; give it the references that the generator yields",
            "ActorHandle": "; an actor is no object, and has no owner that outlives its handles",
        }.get(kind.__name__, "")
        raise TypeError(f"finalize takes an ObjectRef, not {kind.__name__}{hint}")
    if not callable(callback):
        raise TypeError(f"the callback {callback!r} cannot be called")
    if inspect.iscoroutinefunction(callback):
        raise TypeError(
            f"the callback {callback!r} is a coroutine function, which nothing would await; give a plain "
            "function that hands over to the loop (loop.call_soon_threadsafe, run_coroutine_threadsafe)"
        )


_PROCESS = _Process()
os.register_at_fork(after_in_child=_PROCESS._reset)


def session_is_ending() -> None:
    """Stop asking Ray, whose core worker is about to end. The patch `refs` calls this."""
    _PROCESS.end_session()
