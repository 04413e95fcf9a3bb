"""`ray.get` of an object that was spilled on this node, read from its file.

Ray restores a spilled object before it returns it: the raylet makes room in the object store, asks an IO
worker to fill it, and tells the process. A process that owns an object knows without a call that the
object was spilled, and which nodes hold it in memory. If this node does not, the process reads the file
itself. It verifies the bytes and holds them in its own memory.

Everything else is left to Ray: objects of other owners, objects that this node holds in memory, objects
on other nodes, objects that are found damaged or deleted, and objects that would make the process hold
too many such bytes. So Ray still handles errors, retries, timeouts and reconstruction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mantaray.spill.links import LinkIndex
from mantaray.spill.spare_memory import has_spare_memory
from mantaray.spill.state import published_directories, state_directory_of

# How long an answer about this node's directories, or about spare memory, is reused.
_LOOK_PERIOD_S = 0.5
# Larger objects are left to Ray. To copy them into new memory takes longer than to restore them into the
# object store, whose memory is mapped already.
_SMALL_BYTES = 1 << 20


class SpilledData:
    """A spilled object's payload, in place of Ray's buffer."""

    def __init__(self, spilled: Any) -> None:
        """Hold the memory.

        Args:
            spilled: a `SpilledObject` of the native module.
        """
        self._view = memoryview(spilled)
        self.size = len(self._view)

    def to_pybytes(self) -> bytes:
        """Return a copy, as Ray's buffer does."""
        return bytes(self._view)

    def split(self) -> tuple[memoryview, memoryview]:
        """Return the two parts into which Ray splits a payload: MessagePack data, and pickled data.

        Raises:
            ValueError: the payload does not begin with Ray's header, the length of the MessagePack data.
        """
        length = _msgpack_int(bytes(self._view[:_MSGPACK_HEADER_BYTES]))
        end = _MSGPACK_HEADER_BYTES + length
        if end > self.size:
            raise ValueError(f"{length} bytes of MessagePack data in {self.size} bytes")
        return self._view[_MSGPACK_HEADER_BYTES:end], self._view[end:]


# Ray's serialization writes the length first, as a MessagePack integer in this many bytes.
_MSGPACK_HEADER_BYTES = 9
_MSGPACK_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}


def _msgpack_int(header: bytes) -> int:
    if header and header[0] < 0x80:
        return header[0]
    if not header or header[0] not in _MSGPACK_UNSIGNED:
        raise ValueError("no MessagePack integer where Ray's header was expected")
    return int.from_bytes(header[1 : 1 + _MSGPACK_UNSIGNED[header[0]]], "big")


class DirectReader:
    """Reads the spilled objects of one node in a process that owns them."""

    def __init__(self, directories: Sequence[str], most_live_bytes: int) -> None:
        """Start without knowing any object.

        Args:
            directories: the node's own directory in each of its spill directories.
            most_live_bytes: how many bytes of such objects this process may hold at a time.
        """
        from mantaray._native import spill

        self._native = spill
        self._index = LinkIndex(directories)
        self._most_live_bytes = most_live_bytes

    def read(self, core_worker: Any, refs: Sequence[Any]) -> dict[Any, tuple[Any, bytes]]:
        """Return payload and metadata of those objects that can be read from their files.

        Args:
            core_worker: Ray's core worker of this process.
            refs: the objects that are asked for.
        """
        found: dict[Any, tuple[Any, bytes]] = {}
        for ref, location in core_worker.get_local_object_locations(list(refs)).items():
            # A location also names a node that spilled the object. So the store must be asked.
            if not location["did_spill"] or core_worker.object_exists(ref):
                continue
            spilled = self._read(ref.binary())
            if spilled is not None:
                found[ref] = (SpilledData(spilled), spilled.metadata)
        return found

    def _read(self, object_id: bytes) -> Any:
        place = self._index.find(object_id)
        if place is None or place.object_bytes > _SMALL_BYTES:
            return None
        return self._native.read_spilled(*place, object_id, self._most_live_bytes)


class DirectGets:
    """Decides whether this process reads spilled objects itself, and with which reader."""

    def __init__(self, most_live_bytes: int, load_native: Callable[[], bool]) -> None:
        """Start without a reader.

        Args:
            most_live_bytes: how many bytes of such objects this process may hold at a time; 0: none.
            load_native: loads the native module and returns whether it can be used. Called only when the
                node has spilled something, because most processes never meet a spilled object.
        """
        self._most_live_bytes = most_live_bytes
        self._load_native = load_native
        self._looked_s = -_LOOK_PERIOD_S
        self._state_directory = ""
        self._known: DirectReader | None = None
        self._reader: DirectReader | None = None

    def read(self, worker: Any, refs: Sequence[Any]) -> dict[Any, tuple[Any, bytes]]:
        """Return payload and metadata of those objects that this process reads itself now.

        Args:
            worker: Ray's `Worker` of this process, connected.
            refs: the objects that are asked for.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_PERIOD_S:
            self._looked_s = now_s
            self._reader = None
            self._reader = self._look(worker) if self._most_live_bytes > 0 else None
        return self._reader.read(worker.core_worker, refs) if self._reader else {}

    def _look(self, worker: Any) -> DirectReader | None:
        node_id = worker.current_node_id.hex()
        state_directory = state_directory_of(worker.node, node_id)
        if not state_directory:
            return None
        if state_directory != self._state_directory:
            self._state_directory, self._known = state_directory, None
        if self._known is None:
            directories = published_directories(state_directory)
            if not directories or not self._load_native():
                return None
            self._known = DirectReader(directories, self._most_live_bytes)
        # The object store does not count copies in this process, so they need spare memory.
        return self._known if has_spare_memory() else None


class WorkerWith:
    """Stands in for Ray's `Worker` during one get. Its core worker has some of the objects already."""

    def __init__(self, worker: Any, found: dict[Any, tuple[Any, bytes]], serialized: Any) -> None:
        """Stand in for a worker.

        Args:
            worker: Ray's `Worker`.
            found: payload and metadata of objects.
            serialized: Ray's class of the values that its core worker returns for each object.
        """
        self._worker = worker
        self.core_worker = _CoreWorkerWith(worker.core_worker, found, serialized)

    def __getattr__(self, name: str) -> Any:
        """Return everything else from the worker."""
        return getattr(self._worker, name)


class _CoreWorkerWith:
    def __init__(
        self, core_worker: Any, found: dict[Any, tuple[Any, bytes]], serialized: Any
    ) -> None:
        self._core_worker = core_worker
        self._found = found
        self._serialized = serialized

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core_worker, name)

    def get_objects(self, object_refs: list[Any], *args: Any) -> list[Any]:
        rest = [ref for ref in object_refs if ref not in self._found]
        got = iter(self._core_worker.get_objects(rest, *args) if rest else ())
        return [
            self._serialized(*self._found[ref], None) if ref in self._found else next(got)
            for ref in object_refs
        ]
