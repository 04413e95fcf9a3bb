"""Reports lost spilled objects to their owners once, and writes rebuilt objects back under their URLs.

The raylet keeps the URL of a spilled object for as long as the object lives. It neither pins nor
spills a rebuilt copy, because it takes the object for spilled. So without help every rebuilt
copy is lost again when it leaves memory, and one damaged byte costs a run of the task each time. An
IO worker therefore watches the local store for objects that it reported lost, and writes the rebuilt
copy to the place that the URL names.

The raylet reads a spilled object by itself when another node pulls the object. It leaves a note about an
object that is damaged or lost (see `mantaray.spill.pull_check`), and an IO worker takes it from there.

Two background threads of an IO worker do this. The first one watches the store. A rebuilt copy is not a
primary copy, so under pressure the store evicts it a moment after it was read. The watching thread
therefore never waits for another process. The second thread asks the owners and reports to them. It
reports lost objects together, because each report takes a stand-in node (see `mantaray.spill.damage`). It
waits longer between reports while losses go on, so that a bad disk does not fill the GCS's list of dead
nodes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mantaray.spill import damage

logger = logging.getLogger(__name__)

# The watching thread looks this often just after an object was requested or its owner was told. It looks
# less often later.
_SHORTEST_WATCH_S = 0.005
_LONGEST_WATCH_S = 0.2
_SLOWER_BY_AGE = 0.01
# The largest share of a processor for the watching thread, however many objects it watches.
_REST_PER_LOOK = 4
_REPORT_POLL_S = 0.02
# How long an IO worker that ends waits until another one watches the object that it reports.
_ADOPTION_LIMIT_S = 2.0
# How long a rebuilt copy that could not be written to its place is left alone.
_WRITE_AGAIN_S = 1.0
# An object that was not rebuilt for so long is no longer watched until it is requested again.
_WATCH_S = 600.0
# How often one object is reported again while the raylet keeps asking.
_REPEAT_S = 5.0
_SHORTEST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
_CASE_PREFIX = "lost-"
# A file that is added so soon after a directory's last change may leave the directory's time unchanged.
_CLOCK_TICK_NS = 100_000_000

Put = Callable[[bytes, int, Any, Any, bytes], None]
GetIfLocal = Callable[[Sequence[Any]], list[Any]]


@dataclass
class LostObject:
    """An object that was found lost.

    Attributes:
        ref: Ray's reference to it.
        url: where it was spilled.
        error: what was wrong with its file.
        asked_s: when it was last requested.
        due_s: when its owner is to be asked next; infinite if it was not requested since the last time.
        owner: serialized address of its owner, if that is known.
        told_s: when its owner was last told; negative if it was not.
        write_s: from when on a rebuilt copy may be written to its place.
    """

    ref: Any
    url: str
    error: str
    asked_s: float
    due_s: float
    owner: bytes | None = None
    told_s: float = -math.inf
    write_s: float = -math.inf


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
        """Start to watch for objects that other IO workers leave. For this worker's own see `lost`.

        Args:
            engine: the native engine.
            get_if_local: Ray's function that reads objects of the local store.
            put: Ray's function that puts an object into the local store.
            node_id: hex id of this node.
            state_directory: where an IO worker that ends leaves its lost objects to the others;
                empty: nowhere.
        """
        from mantaray._native import spill

        self._note_prefix: str = spill.PULL_NOTE_PREFIX
        self._damage_error: type[Exception] = spill.SpillDamageError
        self._engine = engine
        self._get_if_local = get_if_local
        self._put = put
        self._node_id = node_id
        self._state_directory = state_directory
        self._listed_ns = 0  # the modification time of the state directory when it was last listed
        self._lock = threading.Lock()
        self._objects: dict[bytes, LostObject] = {}
        self._put_back_lately: list[LostObject] = []
        # References and URLs of objects that the raylet found damaged or lost.
        self._notes: list[tuple[Any, str]] = []
        self._watch_wake = threading.Event()
        self._report_wake = threading.Event()
        self._stop = False
        self._is_leaving = False
        self._next_report_s = 0.0
        self._pause_s = _SHORTEST_PAUSE_S
        self._reporter: threading.Thread | None = None
        self._watcher = threading.Thread(
            target=self._watch, name="mantaray-spill-watch", daemon=True
        )
        self._watcher.start()

    def lost(self, ref: Any, url: str, error: Exception | str) -> None:
        """Register a lost object, whose owner will be told.

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
        self._watch_wake.set()
        self._report_wake.set()

    def _start(self) -> None:
        if self._reporter is None and not self._stop:
            self._reporter = threading.Thread(
                target=self._report, name="mantaray-spill-recovery", daemon=True
            )
            self._reporter.start()

    def close(self) -> None:
        """Stop, and wait for the threads."""
        with self._lock:
            self._stop = True
            reporter = self._reporter
        self._watch_wake.set()
        self._report_wake.set()
        self._watcher.join()
        if reporter is not None:
            reporter.join()

    def leave_to_others(self, ref: Any, url: str, error: Exception) -> None:
        """Report an object lost before this IO worker ends, and leave it to the others to watch.

        The rebuilt copy may be in the store only for a moment. So this method waits until another IO
        worker watches for it, and tells the owner only then. The objects that this worker watches are
        left to the others, too.

        Args:
            ref: Ray's reference to the object.
            url: where it was spilled.
            error: what is wrong with its file.
        """
        case = LostObject(ref, url, str(error), time.monotonic(), 0.0)
        with self._lock:
            # This worker's own watching thread would take the object over and end with it.
            self._is_leaving = True
            watched = [lost for key, lost in self._objects.items() if key != ref.binary()]
        with contextlib.suppress(OSError):
            for lost in watched:
                self._write_case(lost)
            self._write_case(case)
            self._wait_for_adoption(case)
        self._handle([case], report=True)

    def _path_of(self, case: LostObject) -> Path:
        return Path(self._state_directory, f"{_CASE_PREFIX}{case.ref.hex()}")

    def _write_case(self, case: LostObject) -> None:
        if self._state_directory:
            path = self._path_of(case)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}-{os.getpid()}")
            temporary.write_text(json.dumps({"url": case.url, "error": case.error}))
            temporary.rename(path)

    def _wait_for_adoption(self, case: LostObject) -> None:
        deadline_s = time.monotonic() + _ADOPTION_LIMIT_S
        while self._state_directory and time.monotonic() < deadline_s:
            if not self._path_of(case).exists():
                return
            time.sleep(_SHORTEST_WATCH_S)

    def _adopt(self) -> None:
        """Take over lost objects of IO workers that ended."""
        if not self._state_directory:
            return
        try:
            changed_ns = os.stat(self._state_directory).st_mtime_ns
            if changed_ns == self._listed_ns:
                return
            settled = time.time_ns() - changed_ns > _CLOCK_TICK_NS
            names = os.listdir(self._state_directory)
        except OSError:
            return
        self._listed_ns = changed_ns if settled else 0
        for name in names:
            if name.startswith(_CASE_PREFIX):
                self._adopt_case(Path(self._state_directory) / name)
            elif name.startswith(self._note_prefix):
                self._adopt_note(Path(self._state_directory) / name)

    def _take(self, path: Path, prefix: str) -> tuple[Any, str]:
        """Take a file about an object out of the state directory; only one worker gets it.

        Returns:
            A reference to the object, and what stands in the file.

        Raises:
            OSError: another worker has it, or this one ends.
            ValueError: it is no such file.
        """
        import ray

        own = path.with_name(f".{path.name}-{os.getpid()}")
        with self._lock:
            if self._is_leaving:
                raise FileNotFoundError(path)
            path.rename(own)
        text = own.read_text()
        own.unlink()
        object_id = bytes.fromhex(path.name[len(prefix) :])
        return ray.ObjectRef(object_id, skip_adding_local_ref=True), text

    def _adopt_case(self, path: Path) -> None:
        try:
            ref, text = self._take(path, _CASE_PREFIX)
            case = json.loads(text)
        except (OSError, ValueError):
            return
        now_s = time.monotonic()
        with self._lock:
            # The worker that ended has told the owner.
            found = LostObject(ref, case["url"], case["error"], now_s, math.inf)
            self._objects.setdefault(ref.binary(), found)
            self._start()

    def _adopt_note(self, path: Path) -> None:
        """Take a note of the raylet about an object that another node asked for."""
        try:
            ref, text = self._take(path, self._note_prefix)
        except (OSError, ValueError):
            return
        with self._lock:
            self._notes.append((ref, text.partition("\n")[0]))
            self._start()
        self._report_wake.set()

    def _look_at_noted(self) -> None:
        """Look at the objects that the raylet found damaged or lost when another node asked for them.

        The raylet tells apart neither a disk that is away from a lost file nor an object that is being
        deleted. An object that cannot be read now is left alone: the other node asks again.
        """
        with self._lock:
            notes, self._notes = self._notes, []
        for ref, url in notes:
            reader = None
            try:
                reader = self._engine.open(url, ref.binary())
                reader.verify()
            except self._damage_error as error:
                # An engine that finds damage at opening sets the object aside by itself.
                if reader is None or self._engine.set_aside(url, reader):
                    self.lost(ref, url, error)
            except FileNotFoundError as error:
                self.lost(ref, url, error)
            except OSError:
                logger.debug("%s cannot be read now.", url, exc_info=True)

    def _watch(self) -> None:
        pause_s = 0.0
        while not self._stop:
            self._watch_wake.wait(pause_s)
            self._watch_wake.clear()
            began_s = time.monotonic()
            try:
                self._adopt()
                freshest_s = self._put_back(self._watched(began_s))
            except Exception:
                logger.exception("A search for rebuilt objects failed; the next one follows.")
                freshest_s = began_s - 1 / _SLOWER_BY_AGE
            now_s = time.monotonic()
            pause_s = (now_s - freshest_s) * _SLOWER_BY_AGE
            pause_s = max(pause_s, _SHORTEST_WATCH_S, (now_s - began_s) * _REST_PER_LOOK)
            pause_s = min(pause_s, _LONGEST_WATCH_S)

    def _watched(self, now_s: float) -> list[LostObject]:
        with self._lock:
            for object_id, lost in list(self._objects.items()):
                if now_s - lost.asked_s > _WATCH_S:
                    del self._objects[object_id]
            return list(self._objects.values())

    def _report(self) -> None:
        while not self._stop:
            with self._lock:
                idle = not self._objects and not self._put_back_lately and not self._notes
            self._report_wake.wait(None if idle else _REPORT_POLL_S)
            self._report_wake.clear()
            try:
                self._look_at_noted()
                self._report_due()
                self._delete_unwanted()
            except Exception:
                logger.exception("A report of lost spilled objects failed; it is tried again.")
                time.sleep(1.0)

    def _report_due(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            due = [lost for lost in self._objects.values() if lost.due_s <= now_s]
        if not due:
            return
        for lost in due:
            lost.due_s = math.inf  # until it is requested again
        may_report = now_s >= self._next_report_s
        if self._handle(due, report=may_report):
            # The wait grows while losses go on.
            quiet = now_s - self._next_report_s > _LONGEST_PAUSE_S
            self._pause_s = _SHORTEST_PAUSE_S if quiet else min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._next_report_s = time.monotonic() + self._pause_s

    def _drop(self, lost: LostObject) -> None:
        with self._lock:
            self._objects.pop(lost.ref.binary(), None)

    def _put_back(self, objects: Sequence[LostObject]) -> float:
        """Write the objects that have come into the local store to their old places.

        Args:
            objects: what to look for.

        Returns:
            The latest time at which one of the objects was requested, or its owner was told.
        """
        now_s = time.monotonic()
        objects = [lost for lost in objects if lost.write_s <= now_s]
        if not objects:
            return -math.inf
        stored = self._get_if_local([lost.ref for lost in objects])
        for lost, (payload, metadata, *_) in zip(objects, stored, strict=True):
            if payload is not None or metadata:
                self._put_back_one(lost, payload, bytes(metadata or b""))
        return max(max(lost.asked_s, lost.told_s) for lost in objects)

    def _put_back_one(self, lost: LostObject, payload: Any, metadata: bytes) -> None:
        if not damage.is_a_result(metadata):
            self._drop(lost)
            return
        self._find_owner(lost)
        try:
            item = (lost.ref.binary(), lost.owner or b"", metadata, payload)
            self._engine.replace(lost.url, item)
        except (NotImplementedError, FileNotFoundError) as error:
            self._drop(lost)
            logger.warning("A rebuilt object cannot be spilled again: %s", error)
        except OSError as error:
            if lost.write_s == -math.inf:
                logger.warning("A rebuilt object cannot be spilled again yet: %s", error)
            lost.write_s = time.monotonic() + _WRITE_AGAIN_S
        else:
            self._drop(lost)
            with self._lock:
                self._put_back_lately.append(lost)
            self._report_wake.set()

    def _delete_unwanted(self) -> None:
        """Delete objects that were put back after the raylet had asked for their deletion."""
        with self._lock:
            returned, self._put_back_lately = self._put_back_lately, []
        for lost in returned:
            if lost.owner is None:
                continue
            try:
                wanted = damage.whereabouts(lost.owner, lost.ref.binary()).wanted
            except Exception:
                wanted = False  # The owner is dead, and so is the object.
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
                lost.told_s = time.monotonic()
                logger.error("%s. Its owner was told to rebuild it.", lost.error)
            else:
                self._give_readers_an_error(lost)
        return True

    def _must_be_rebuilt(self, lost: LostObject) -> bool:
        """Return whether the owner has neither a copy nor a running task that makes one."""
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
