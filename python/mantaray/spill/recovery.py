"""Lost spilled objects: their owners are told once, and what is rebuilt is put back under its URL.

The raylet keeps the URL of a spilled object for as long as the object lives. It neither pins nor
spills a rebuilt copy, because for it the object is spilled already. So without help every rebuilt
copy is lost again when it leaves memory, and one damaged byte costs a run of the task each time. An
IO worker therefore watches the local store for objects that it reported lost and writes the rebuilt
copy to the place that the URL names.

One background thread does this for all lost objects of an IO worker. It reports them together,
because each report takes a stand-in node (see `mantaray.spill.damage`), and waits longer between
reports while losses go on, so that a bad disk does not fill the GCS's list of dead nodes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mantaray.spill import damage

logger = logging.getLogger(__name__)

_POLL_S = 0.02
_ADOPT_PERIOD_S = 1.0
# An object that nobody rebuilds for so long is watched again when it is asked for again.
_WATCH_S = 600.0
# How often one object is reported again while the raylet keeps asking.
_REPEAT_S = 5.0
_SHORTEST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
_CASE_PREFIX = "lost-"

Put = Callable[[bytes, int, Any, Any, bytes], None]
GetIfLocal = Callable[[Sequence[Any]], list[Any]]


@dataclass
class LostObject:
    """An object that was found lost.

    Attributes:
        ref: Ray's reference to it.
        url: where it was spilled.
        error: what was wrong with its file.
        asked_s: when it was last asked for.
        due_s: when its owner is to be asked next; infinite when nobody has asked since the last time.
        owner: serialized address of its owner, when that is known.
    """

    ref: Any
    url: str
    error: str
    asked_s: float
    due_s: float
    owner: bytes | None = None


class Recovery:
    """Looks after the lost objects of one IO worker. Thread-safe."""

    def __init__(
        self,
        engine: Any,
        get_if_local: GetIfLocal,
        put: Put,
        *,
        node_id: str,
        state_directory: str,
    ) -> None:
        """Prepare; the thread starts with the first lost object.

        Args:
            engine: the native engine.
            get_if_local: reads objects of the local store; Ray's.
            put: puts an object into the local store; Ray's.
            node_id: hex id of this node.
            state_directory: where an IO worker that ends leaves its lost objects to the others;
                empty: nowhere.
        """
        self._engine = engine
        self._get_if_local = get_if_local
        self._put = put
        self._node_id = node_id
        self._state_directory = state_directory
        self._lock = threading.Lock()
        self._objects: dict[bytes, LostObject] = {}
        self._wake = threading.Event()
        self._stop = False
        self._thread: threading.Thread | None = None
        self._next_report_s = 0.0
        self._pause_s = _SHORTEST_PAUSE_S
        self._next_adoption_s = 0.0

    def lost(self, ref: Any, url: str, error: Exception | str) -> None:
        """Take note of a lost object, whose owner will be told.

        Args:
            ref: Ray's reference to the object.
            url: where it was spilled.
            error: what is wrong with its file.
        """
        now_s = time.monotonic()
        with self._lock:
            known = self._objects.get(ref.binary())
            if known is not None:
                known.asked_s = now_s
                known.due_s = min(known.due_s, now_s + _REPEAT_S)
                return
            self._objects[ref.binary()] = LostObject(ref, url, str(error), now_s, now_s)
            self._start()
        self._wake.set()

    def _start(self) -> None:
        if self._thread is None and not self._stop:
            self._thread = threading.Thread(
                target=self._run, name="mantaray-spill-recovery", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the thread."""
        with self._lock:
            self._stop = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join()

    def leave_to_others(self, ref: Any, url: str, error: Exception) -> None:
        """Report an object lost before this IO worker ends, and leave it to the others to watch.

        Args:
            ref: Ray's reference to the object.
            url: where it was spilled.
            error: what is wrong with its file.
        """
        case = LostObject(ref, url, str(error), time.monotonic(), 0.0)
        with contextlib.suppress(OSError):
            self._write_case(case)
        self._handle([case], report=True)

    def _write_case(self, case: LostObject) -> None:
        if self._state_directory:
            path = Path(self._state_directory) / (_CASE_PREFIX + case.ref.hex())
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}-{os.getpid()}")
            temporary.write_text(json.dumps({"url": case.url, "error": case.error}))
            temporary.rename(path)

    def adopt(self) -> None:
        """Take over lost objects of IO workers that ended. Cheap; call it now and then."""
        now_s = time.monotonic()
        if not self._state_directory or now_s < self._next_adoption_s:
            return
        self._next_adoption_s = now_s + _ADOPT_PERIOD_S
        try:
            names = os.listdir(self._state_directory)
        except OSError:
            return
        for name in names:
            if name.startswith(_CASE_PREFIX):
                self._adopt_case(Path(self._state_directory) / name)

    def _adopt_case(self, path: Path) -> None:
        import ray

        own = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            path.rename(own)  # Only one worker gets it.
            case = json.loads(own.read_text())
            own.unlink()
            object_id = bytes.fromhex(path.name[len(_CASE_PREFIX) :])
        except (OSError, ValueError):
            return
        ref = ray.ObjectRef(object_id, skip_adding_local_ref=True)
        now_s = time.monotonic()
        with self._lock:
            # Its owner has been told by the worker that ended.
            found = LostObject(ref, case["url"], case["error"], now_s, float("inf"))
            self._objects.setdefault(object_id, found)
            self._start()
        self._wake.set()

    def _run(self) -> None:
        while not self._stop:
            with self._lock:
                idle = not self._objects
            self._wake.wait(None if idle else _POLL_S)
            self._wake.clear()
            try:
                self._step()
            except Exception:
                logger.exception("Looking after lost spilled objects failed; it goes on.")
                time.sleep(1.0)

    def _step(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            for object_id, lost in list(self._objects.items()):
                if now_s - lost.asked_s > _WATCH_S:
                    del self._objects[object_id]
            objects = list(self._objects.values())
        self._put_back(objects)
        due = [lost for lost in objects if lost.due_s <= now_s and self._is_watched(lost)]
        if not due:
            return
        for lost in due:
            lost.due_s = float("inf")  # until it is asked for again
        may_report = now_s >= self._next_report_s
        if self._handle(due, report=may_report):
            # Longer and longer while losses go on.
            quiet = now_s - self._next_report_s > _LONGEST_PAUSE_S
            self._pause_s = _SHORTEST_PAUSE_S if quiet else min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._next_report_s = time.monotonic() + self._pause_s

    def _is_watched(self, lost: LostObject) -> bool:
        with self._lock:
            return lost.ref.binary() in self._objects

    def _drop(self, lost: LostObject) -> None:
        with self._lock:
            self._objects.pop(lost.ref.binary(), None)

    def _put_back(self, objects: Sequence[LostObject]) -> None:
        """Write the objects that have come into the local store to their old places."""
        if not objects:
            return
        stored = self._get_if_local([lost.ref for lost in objects])
        for lost, (payload, metadata, *_) in zip(objects, stored, strict=True):
            if payload is None and not metadata:
                continue
            self._drop(lost)
            if not damage.is_a_result(bytes(metadata or b"")):
                continue
            self._find_owner(lost)
            item = (lost.ref.binary(), lost.owner or b"", bytes(metadata or b""), payload)
            try:
                self._engine.replace(lost.url, item)
            except OSError as error:
                logger.warning("A rebuilt object cannot be spilled again: %s", error)
                continue
            self._delete_if_unwanted(lost)

    def _delete_if_unwanted(self, lost: LostObject) -> None:
        """Delete what was put back after the raylet had asked for its deletion."""
        if lost.owner is None:
            return
        try:
            wanted = damage.whereabouts(lost.owner, lost.ref.binary()).wanted
        except Exception:
            wanted = False  # The owner is dead, and the object with it.
        if not wanted:
            self._engine.delete([lost.url])

    def _find_owner(self, lost: LostObject) -> None:
        if lost.owner is None:
            lost.owner = self._engine.owner_of(lost.url)

    def _handle(self, objects: Sequence[LostObject], *, report: bool) -> bool:
        """Ask the owners what to do about lost objects, and do it.

        Args:
            objects: the lost objects.
            report: whether owners may be told now; otherwise those objects stay due.

        Returns:
            Whether owners were told.
        """
        to_report: dict[bytes, LostObject] = {}
        for lost in objects:
            self._find_owner(lost)
            if lost.owner is None:
                self._give_readers_an_error(lost)
            elif self._must_be_rebuilt(lost):
                to_report[lost.ref.binary()] = lost
        if not to_report:
            return False
        if not report:
            for lost in to_report.values():
                lost.due_s = self._next_report_s
            return False
        owners = {key: lost.owner for key, lost in to_report.items() if lost.owner is not None}
        told = damage.report_lost(owners)
        for key, lost in to_report.items():
            if key in told:
                logger.error("%s. Its owner was told to rebuild it.", lost.error)
            else:
                self._give_readers_an_error(lost)
        return True

    def _must_be_rebuilt(self, lost: LostObject) -> bool:
        """Return whether the owner has neither a copy nor a task under way that makes one."""
        if lost.owner is None:
            return False
        try:
            known = damage.whereabouts(lost.owner, lost.ref.binary())
        except Exception:
            logger.debug("The owner cannot be asked.", exc_info=True)
            return True
        if not known.wanted:
            self._drop(lost)
            return False
        own = bytes.fromhex(self._node_id)
        for node_id in known.nodes - {own}:
            try:
                if damage.ask_for_copy(node_id, lost.ref.binary(), own):
                    return False
            except Exception as error:
                logger.warning("Node %s cannot be asked for a copy: %s", node_id.hex(), error)
        return not known.pending

    def _give_readers_an_error(self, lost: LostObject) -> None:
        logger.error("%s. Its owner cannot be told; readers get an ObjectLostError.", lost.error)
        self._drop(lost)
        damage.store_error(self._put, lost.ref)
