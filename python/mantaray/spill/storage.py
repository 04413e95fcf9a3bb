"""Ray's external storage of type `filesystem`, on the native engine.

`make_storage_class` builds the class when Ray's module is there to inherit from. An instance is
made in three places, as with Ray's own: on the head to validate the configuration, in every IO worker,
and in whoever destroys the storage at the end. Only an IO worker ever starts the engine.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from mantaray.spill import damage, no_room, owner
from mantaray.spill.config import (
    SpillConfigError,
    make_node_directory,
    read_config,
)
from mantaray.spill.handover import CAP_KEY, directories_in, handed_on

logger = logging.getLogger(__name__)

TICK_PERIOD_S = 0.2


class SpillStorage:
    """Spills, restores and deletes objects for one IO worker. Mixed into Ray's ExternalStorage."""

    # Given by Ray's class.
    _get_objects_from_store: Callable[[Sequence[Any]], list[tuple[Any, bytes, Any]]]
    _put_object_to_store: Callable[[bytes, int, Any, Any, bytes], None]

    def __init__(self, node_id: str, config: Mapping[str, Any]) -> None:
        """Make this node's directories.

        An IO worker does without directories that have vanished since the node started, as long as
        one is left.

        Args:
            node_id: hex id of the node.
            config: Ray's object spilling configuration, of type `filesystem`. Its "params" take
                `directory_path`, a directory or a list of them; `buffer_size` is accepted and not
                needed.

        Raises:
            SpillConfigError: the configuration cannot work.
        """
        super().__init__()
        from mantaray._native import spill

        read_config({})
        name = spill.NODE_DIRECTORY_PREFIX + node_id
        directories = directories_in(config)
        places = handed_on(directories)
        if places is None:
            self._directories = [make_node_directory(directory, name) for directory in directories]
        else:
            self._directories = _make_what_is_left(places, name)
        # Looked up here once: an import statement in every call would cost more than some of the calls.
        self._native = spill
        self._caps = {CAP_KEY: config[CAP_KEY]} if CAP_KEY in config else {}
        self._engine_lock = threading.Lock()
        self._engine: Any = None
        self._in_use: list[int] = []
        self._stop = threading.Event()
        self._reported: dict[str, float] = {}

    def spill_objects(
        self, object_refs: Sequence[Any], owner_addresses: Sequence[bytes]
    ) -> list[bytes]:
        """Write objects of the local store to disk; return the URLs of those that found room.

        Fewer URLs than objects stand for the first so many, which is how Ray takes them.

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
        try:
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
            SpillDamageError: an object is damaged. It is set aside and its owner told.
            FileNotFoundError: an object's file is gone.
        """
        engine = self._started()
        total_bytes = 0
        for ref, url_bytes in zip(object_refs, url_with_offset_list, strict=True):
            total_bytes += self._restore(engine, ref, url_bytes.decode())
        return total_bytes

    def _restore(self, engine: Any, ref: Any, url: str) -> int:
        try:
            reader = engine.open(url, ref.binary())
        except (self._native.SpillDamageError, FileNotFoundError) as error:
            self._handle_loss(ref, url, error)
            raise
        size_bytes: int = reader.payload_bytes
        try:
            self._put_object_to_store(
                reader.metadata, size_bytes, reader, ref, reader.owner_address
            )
        except self._native.SpillDamageError as error:
            engine.set_aside(url)
            self._handle_loss(ref, url, error)
            damage.abandon_unsealed_object(error)
        return size_bytes

    def _handle_loss(self, ref: Any, url: str, error: Exception) -> None:
        """Tell the owner; when nobody can be told, leave an error in the object's place."""
        # The raylet asks again and again; once in a while is often enough to tell.
        if not self._is_news(url, damage.REPEAT_S):
            return
        address = damage.owner_address_of(url)
        if address is not None and damage.report_lost(address, ref.binary()):
            logger.error("%s. Its owner was told to rebuild it.", error)
            return
        logger.error("%s. Its owner cannot be told; readers get an ObjectLostError.", error)
        damage.store_error(self._put_object_to_store, ref)

    def _is_news(self, what: str, repeat_s: float) -> bool:
        """Return whether the last word about this is some seconds old; this is one."""
        now = time.monotonic()
        if now - self._reported.get(what, -repeat_s) < repeat_s:
            return False
        self._reported[what] = now
        return True

    def delete_spilled_objects(self, urls: Sequence[bytes]) -> None:
        """Delete spilled objects; what is gone already is no error."""
        self._started().delete([url.decode() for url in urls])

    def destroy_external_storage(self) -> None:
        """Remove this node's directories with all that is in them."""
        self._close()
        for directory in self._directories:
            # An IO worker may still be adding to it; what it adds goes at the next attempt.
            for _ in range(100):
                shutil.rmtree(directory, ignore_errors=True)
                if not os.path.isdir(directory):
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
        engine = self._native.Engine(
            node_directories=self._directories,
            max_segment_bytes=config.max_segment_bytes,
            max_fused_bytes=config.max_fused_bytes,
            reserve_bytes=config.reserve_bytes,
            cache_mode=config.cache_mode,
            read_ahead_bytes=config.read_ahead_bytes,
            punch_delay_ms=config.punch_delay_ms,
        )
        no_room.quieten_rays_log()
        for directory in self._directories:
            with contextlib.suppress(OSError):  # vanished; the engine passes it over
                self._in_use.append(owner.mark_in_use(directory))
        for line in engine.limitations():
            logger.warning(
                "Spill directory %s not supported by its file system: spilling falls back, "
                "see docs/spilling.md.",
                line,
            )
        threading.Thread(
            target=self._tick, args=(engine,), name="mantaray-spill", daemon=True
        ).start()
        atexit.register(self._close)
        return engine

    def _tick(self, engine: Any) -> None:
        while not self._stop.wait(TICK_PERIOD_S):
            try:
                engine.tick()
            except Exception:
                logger.exception("Reclaiming spilled data failed; it is tried again.")

    def _close(self) -> None:
        """Do the pending punches, once their readers have had the grace time."""
        with self._engine_lock:
            engine, self._engine = self._engine, None
        if engine is None:
            return
        atexit.unregister(self._close)
        time.sleep(engine.close_delay_ms() / 1000)
        self._stop.set()
        engine.close()
        while self._in_use:
            os.close(self._in_use.pop())


def _make_what_is_left(places: Sequence[tuple[str, int]], name: str) -> list[str]:
    """Make the node's directory in each place that is still what it was when the node started.

    Args:
        places: directories and the devices they lay on.
        name: what the node's own directory is called.

    Raises:
        SpillConfigError: none of them can be used.
    """
    made, problems = [], []
    for directory, device in places:
        try:
            # Behind a disk that was unmounted lies another one, usually the root's.
            if os.stat(directory).st_dev != device:
                raise SpillConfigError(
                    f"object spilling directory {directory} lies on another disk than at the start "
                    "of the node; mount the disk again and start the node anew."
                )
            made.append(make_node_directory(directory, name))
        except OSError as error:
            problems.append(f"object spilling directory {directory} is gone ({error.strerror}).")
        except SpillConfigError as error:
            problems.append(str(error))
    if not made:
        raise SpillConfigError(" ".join(problems))
    for problem in problems:
        logger.warning("%s It is not used by this IO worker.", problem)
    return made


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
