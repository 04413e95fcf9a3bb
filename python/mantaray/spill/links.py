"""An index of the spilled objects of this node, by object id.

An IO worker publishes a batch of objects as a directory with one link for each object, and the link's name
contains the object's id (docs/spill-format.md). This index lists each such directory once. Processes that
are not IO workers use it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# How many objects the index of one process holds at most. They take about 60 MB of memory.
MOST_OBJECTS = 200_000
# How long the index stays empty after the node had more objects than the index may hold.
_PAUSE_S = 30.0
# A directory that changed so shortly before it was listed may change again without a new time stamp.
_UNSETTLED_S = 0.1


class SpilledLocation(NamedTuple):
    """The location of a spilled object.

    Attributes:
        path: of the object's link.
        offset: of the object in that file, in bytes.
        object_bytes: the object's size in the file, header included.
    """

    path: str
    offset: int
    object_bytes: int


class LinkIndex:
    """The links of one node. Thread-safe."""

    def __init__(self, directories: Sequence[str], most_objects: int = MOST_OBJECTS) -> None:
        """Start with an empty index.

        Args:
            directories: the node's own directory in each of its spill directories.
            most_objects: how many objects the index holds at most. With more it finds none for a while.
        """
        from mantaray._native import spill

        self._parse = spill.parse_link_name
        self._directories = list(directories)
        self._most_objects = most_objects
        self._lock = threading.Lock()
        self._locations: dict[bytes, SpilledLocation] = {}
        # The ids of the objects in each batch, by the batch's path.
        self._batches: dict[str, list[bytes]] = {}
        # The time stamp of each worker's directory that need not be listed again.
        self._listed: dict[str, int] = {}
        self._paused_until_s = 0.0

    def find(self, object_id: bytes) -> SpilledLocation | None:
        """Return the location of an object; None if it is not spilled on this node, or not in the index.

        Args:
            object_id: its 28 bytes.
        """
        with self._lock:
            place = self._locations.get(object_id)
            if place is None and time.monotonic() >= self._paused_until_s:
                self._look()
                place = self._locations.get(object_id)
            return place

    def _look(self) -> None:
        """List the batches published since the last call, and forget those that are gone."""
        for worker in self._workers():
            try:
                changed_ns = os.stat(worker).st_mtime_ns
                if self._listed.get(worker) == changed_ns:
                    continue
                batches = {os.path.join(worker, name) for name in os.listdir(worker)}
            except OSError:
                changed_ns, batches = 0, set()
            known = {batch for batch in self._batches if os.path.dirname(batch) == worker}
            for batch in known - batches:
                self._forget_batch(batch)
            for batch in batches - known:
                self._list_batch(batch)
            if time.time_ns() - changed_ns > _UNSETTLED_S * 1e9:
                self._listed[worker] = changed_ns
            if len(self._locations) > self._most_objects:
                self._pause()
                return

    def _workers(self) -> Iterator[str]:
        found = set(self._listed)
        for directory in self._directories:
            try:
                found.update(os.path.join(directory, name) for name in os.listdir(directory))
            except OSError:
                continue  # The disk is away, or nothing was spilled there yet.
        return iter(found)

    def _list_batch(self, batch: str) -> None:
        # A batch that is still being made has another name, and so have the other files of a worker.
        if not os.path.basename(batch).isdecimal():
            return
        try:
            names = os.listdir(batch)
        except OSError:
            return
        ids = self._batches[batch] = []
        for name in names:
            link = self._parse(name)
            if link is None:
                continue
            object_id, offset, object_bytes, _, damaged = link
            if not damaged:
                self._locations[object_id] = SpilledLocation(
                    os.path.join(batch, name), offset, object_bytes
                )
                ids.append(object_id)

    def _forget_batch(self, batch: str) -> None:
        for object_id in self._batches.pop(batch):
            place = self._locations.get(object_id)
            if place is not None and os.path.dirname(place.path) == batch:
                del self._locations[object_id]

    def _pause(self) -> None:
        self._locations.clear()
        self._batches.clear()
        self._listed.clear()
        self._paused_until_s = time.monotonic() + _PAUSE_S
