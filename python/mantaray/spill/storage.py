"""Ray's external storage of type `filesystem`, on the native engine.

`make_storage_class` builds the class once Ray has imported the module with its base class. As with Ray's
own storage, an instance is made in three places: on the head to validate the configuration, in every IO
worker, and in the process that destroys the storage at the end. Only an IO worker starts the engine.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from mantaray.spill import damage, no_room, node_lock, owner
from mantaray.spill.config import SpillConfig, is_usable, make_usable, read_config
from mantaray.spill.handover import CAP_KEY, directories_in, handed_on
from mantaray.spill.local_store import LocalStore
from mantaray.spill.patience import Patience
from mantaray.spill.recovery import Recovery
from mantaray.spill.spare_memory import has_spare_memory
from mantaray.spill.state import publish_directories, state_directory_of
from mantaray.spill.telemetry import DELETED_BYTES, RESTORED_BYTES, RESTORED_OBJECTS, Telemetry

logger = logging.getLogger(__name__)

TICK_PERIOD_S = 0.2
# How long one call keeps trying to read an object. The raylet waits ten seconds before it asks again.
_CALL_LIMIT_S = 8.0
_MAX_FAILING = 10_000


class SpillStorage:
    """Spills, restores and deletes objects for one IO worker. Mixed into Ray's ExternalStorage."""

    # Given by Ray's class.
    _get_objects_from_store: Callable[[Sequence[Any]], list[tuple[Any, bytes, Any]]]
    _put_object_to_store: Callable[[bytes, int, Any, Any, bytes], None]

    def __init__(self, node_id: str, config: Mapping[str, Any]) -> None:
        """Make this node's directories.

        A directory that cannot be used now is passed over until it can be used.

        Args:
            node_id: hex id of the node.
            config: Ray's object spilling configuration, of type `filesystem`. Its "params" take
                `directory_path`, a directory or a list of them; `buffer_size` is accepted and not
                needed.

        Raises:
            SpillConfigError: the configuration cannot work; no directory can be used at the start
                of the node.
        """
        super().__init__()
        from mantaray._native import spill

        read_config({})
        name = spill.NODE_DIRECTORY_PREFIX + node_id
        directories = directories_in(config)
        places = handed_on(directories)
        # An IO worker that starts while no directory can be used waits for one.
        at_start = places is None
        places = places or [(directory, 0) for directory in directories]
        make_usable(places, name, at_least_one=at_start)
        self._node_id = node_id
        self._directories = [os.path.join(directory, name) for directory, _ in places]
        self._devices = [device for _, device in places]
        # Attributes with upstream's names, which scripts and subclasses read.
        self._directory_paths = self._directories
        self._current_directory_index = 0
        self._buffer_size = config.get("params", {}).get("buffer_size", -1)
        # Imported here once, because an import statement in every call would cost more than some calls.
        self._native = spill
        self._caps = {CAP_KEY: config[CAP_KEY]} if CAP_KEY in config else {}
        self._engine_lock = threading.Lock()
        self._engine: Any = None
        self._recovery: Any = None
        self._telemetry: Any = None
        self._fallback_directories = 0
        self._in_use: list[int] = []
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._reported: dict[str, float] = {}
        self._io_deadline_s = 0.0
        self._cache_follows_memory = False
        # When each object that cannot be read because of I/O errors was first requested.
        self._failing: dict[str, float] = {}

    def spill_objects(
        self, object_refs: Sequence[Any], owner_addresses: Sequence[bytes]
    ) -> list[bytes]:
        """Write objects of the local store to disk; return the URLs of those that found room.

        If there are fewer URLs than objects, Ray takes them for the first objects.

        Raises:
            ValueError: an object is not in the local store.
            SpillNoSpaceError: no directory has room for the first object.
        """
        if not object_refs:
            return []
        objects = []
        stored = self._get_objects_from_store(object_refs)
        for ref, (payload, metadata, *_), address in zip(
            object_refs, stored, owner_addresses, strict=True
        ):
            if payload is None and not metadata:
                raise ValueError(f"Object {ref.hex()} does not exist.")
            objects.append((ref.binary(), bytes(address), bytes(metadata or b""), payload))
        engine = self._started()
        if self._cache_follows_memory:
            engine.keep_in_cache(has_spare_memory())
        try:
            with self._telemetry.timed("spill"):
                urls: list[bytes] = engine.spill(objects)
        except self._native.SpillNoSpaceError as error:
            if self._is_news("no room", no_room.REPEAT_S):
                logger.error("%s.", error)
            raise
        return urls

    def restore_spilled_objects(
        self, object_refs: Sequence[Any], url_with_offset_list: Sequence[bytes]
    ) -> int:
        """Put spilled objects back into the local store; return the payload bytes.

        Raises:
            SpillDamageError: an object is damaged. It is set aside, and its owner is told.
            FileNotFoundError: an object's file is gone. Its owner is told.
            OSError: an object cannot be read now. Ray asks again.
        """
        engine = self._started()
        total_bytes = 0
        for ref, url_bytes in zip(object_refs, url_with_offset_list, strict=True):
            with self._telemetry.timed("restore"):
                size_bytes = self._restore(engine, ref, url_bytes.decode())
            self._telemetry.add(RESTORED_OBJECTS)
            self._telemetry.add(RESTORED_BYTES, size_bytes)
            total_bytes += size_bytes
        return total_bytes

    def _restore(self, engine: Any, ref: Any, url: str) -> int:
        patience = Patience(min(_CALL_LIMIT_S, self._io_deadline_s))
        reader = self._open(engine, ref, url, patience)
        size_bytes: int = reader.payload_bytes
        payload = _Payload(reader, lambda: engine.open(url, ref.binary()), patience)
        try:
            self._put_object_to_store(
                reader.metadata, size_bytes, payload, ref, reader.owner_address
            )
        except self._native.SpillDamageError as error:
            if engine.set_aside(url, payload.reader):
                self._recovery.leave_to_others(ref, url, error)
            damage.abandon_unsealed_object(error)
        except OSError as error:
            if payload.begun:
                damage.abandon_unsealed_object(error)
            raise
        return size_bytes

    def _open(self, engine: Any, ref: Any, url: str, patience: Patience) -> Any:
        while True:
            try:
                reader = engine.open(url, ref.binary())
            except (self._native.SpillDamageError, FileNotFoundError) as error:
                self._recovery.lost(ref, url, error)
                raise
            except OSError as error:
                if patience.wait():
                    continue
                if self._has_failed_for_long(url):
                    self._recovery.lost(ref, url, error)
                elif self._is_news("io error", no_room.REPEAT_S):
                    logger.warning("%s. It is tried again.", error)
                raise
            self._failing.pop(url, None)
            return reader

    def _has_failed_for_long(self, url: str) -> bool:
        """Return whether an object could not be read for as long as the deadline allows."""
        now_s = time.monotonic()
        if len(self._failing) >= _MAX_FAILING:
            self._failing.pop(next(iter(self._failing)))
        return now_s - self._failing.setdefault(url, now_s) + _CALL_LIMIT_S > self._io_deadline_s

    def _is_news(self, what: str, repeat_s: float) -> bool:
        """Return whether a message was last logged some seconds ago, and count this as logging it."""
        now = time.monotonic()
        if now - self._reported.get(what, -math.inf) < repeat_s:
            return False
        self._reported[what] = now
        return True

    def delete_spilled_objects(self, urls: Sequence[bytes]) -> None:
        """Delete spilled objects. An object that is gone already is no error."""
        engine = self._started()
        names = [url.decode() for url in urls]
        with self._telemetry.timed("delete"):
            engine.delete(names)
        self._telemetry.add(DELETED_BYTES, sum(map(_size_in, names)))

    def destroy_external_storage(self) -> None:
        """Remove this node's directories with everything in them."""
        self._close()
        for directory in self._directories:
            # An IO worker may still add files. The next attempt removes them.
            for _ in range(100):
                shutil.rmtree(directory, ignore_errors=True)
                if not os.path.isdir(directory):
                    node_lock.remove(directory)
                    owner.remove_record(directory)
                    break
                time.sleep(0.01)
            else:
                logger.error("Spilled objects in %s could not all be removed.", directory)

    def _started(self) -> Any:
        """Return the engine, started at first use (only an IO worker ever gets here)."""
        with self._engine_lock:
            if self._engine is None:
                self._engine = self._start()
            return self._engine

    def _start(self) -> Any:
        config = read_config(_system_config() | self._caps)
        for directory in self._directories:
            owner.write_record(directory, os.getppid())
        state_directory = self._shared_state_directory()
        self._io_deadline_s = config.io_deadline_ms / 1000
        self._cache_follows_memory = config.cache_mode == "auto"
        engine = self._make_engine(config, state_directory)
        self._recovery = Recovery(
            engine,
            LocalStore(self._get_objects_from_store).get_if_local,
            self._put_object_to_store,
            node_id=self._node_id,
            state_directory=state_directory,
        )
        self._telemetry = Telemetry(state_directory, self._node_id, engine.stats)
        no_room.quieten_rays_log()
        for directory in self._directories:
            with contextlib.suppress(OSError):  # vanished; the engine passes it over
                self._in_use.append(owner.mark_in_use(directory))
        for line in engine.unusable():
            logger.warning("Spill directory %s. It is passed over until it can be used.", line)
        limitations = engine.limitations()
        self._fallback_directories = len(limitations)
        for line in limitations:
            logger.warning(
                "Spill directory %s not supported by its file system: spilling falls back, "
                "see docs/spilling.md.",
                line,
            )
        self._ticker = threading.Thread(
            target=self._tick, args=(engine,), name="mantaray-spill", daemon=True
        )
        self._ticker.start()
        atexit.register(self._close)
        return engine

    def _shared_state_directory(self) -> str:
        """Return the node's state directory, and publish there where the node's spilled objects are."""
        import ray

        node = getattr(ray._private.worker, "_global_node", None)
        state_directory = state_directory_of(node, self._node_id)
        if state_directory:
            try:
                publish_directories(state_directory, self._directories)
            except OSError as error:
                logger.warning("Spilled objects are read through Ray alone: %s.", error)
        return state_directory

    def _make_engine(self, config: SpillConfig, state_directory: str) -> Any:
        return self._native.Engine(
            node_directories=self._directories,
            devices=self._devices,
            state_directory=state_directory,
            max_segment_bytes=config.max_segment_bytes,
            max_fused_bytes=config.max_fused_bytes,
            reserve_bytes=config.reserve_bytes,
            cache_mode="direct" if self._cache_follows_memory else config.cache_mode,
            read_ahead_bytes=config.read_ahead_bytes,
            punch_delay_ms=config.punch_delay_ms,
            raylet_pid=owner.parent_raylet_pid(),
        )

    def _tick(self, engine: Any) -> None:
        while not self._stop.wait(TICK_PERIOD_S):
            try:
                engine.tick()
                if self._telemetry.is_due():
                    self._tell()
            except Exception:
                logger.exception("Reclaiming spilled data failed; it is tried again.")

    def _tell(self) -> None:
        """Write this IO worker's counts for the node's metrics."""
        usable = {
            path: is_usable(path, device)
            for path, device in zip(self._directories, self._devices, strict=True)
        }
        with contextlib.suppress(OSError):  # A figure is missing for a moment.
            self._telemetry.write(usable, self._fallback_directories)

    def _close(self) -> None:
        """Do the pending punches after the grace time of their readers."""
        with self._engine_lock:
            engine, self._engine = self._engine, None
        if engine is None:
            return
        atexit.unregister(self._close)
        self._recovery.close()
        time.sleep(engine.close_delay_ms() / 1000)
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
        engine.close()
        self._tell()
        while self._in_use:
            os.close(self._in_use.pop())


class _Payload:
    """A spilled object's payload as the file-like object that Ray reads into the store.

    A read that fails for a passing reason is tried again, from a newly opened file, because the
    object exists in the store already and must be filled.
    """

    def __init__(self, reader: Any, reopen: Callable[[], Any], patience: Patience) -> None:
        self.reader = reader
        self.begun = False
        self._reopen = reopen
        self._patience = patience

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, which takes the whole payload; return the number of bytes.

        Raises:
            SpillDamageError: what was read is damaged.
            OSError: it cannot be read.
        """
        self.begun = True
        while True:
            try:
                size_bytes: int = self.reader.readinto(buffer)
                return size_bytes
            except OSError:
                if not self._patience.wait():
                    raise
            # If it cannot be opened, the present reader tries again.
            with contextlib.suppress(OSError):
                self.reader = self._reopen()


def _size_in(url: str) -> int:
    """Return the size of an object in bytes as its URL names it; 0 if the URL names none."""
    size = url.rpartition("&size=")[2]
    return int(size) if size.isdecimal() else 0


def _system_config() -> dict[str, object]:
    """Return the cluster's system configuration, for the knobs that upstream reads from it."""
    import ray

    try:
        config: dict[str, object] = ray._private.state.state.get_system_config()
        return config
    except Exception:
        logger.debug("Ray's system configuration cannot be read here.", exc_info=True)
        return {}


def make_storage_class(external_storage: ModuleType) -> type:
    """Return the storage class, built on the base class of Ray's module."""
    return type("MantarayFileSystemStorage", (SpillStorage, external_storage.ExternalStorage), {})
