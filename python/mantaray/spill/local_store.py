"""Looks for objects in the local object store that may not be there.

An IO worker neither owns nor borrows spilled objects, so its core worker knows nothing about them:
`object_exists` returns False whatever the store holds, and `get_if_local` ends the process if an object
is absent. So this module registers each object with the core worker, in the way in which an owner reports
that an object is in the store. From then on `object_exists` asks the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

_WORKER_ID_BYTES = 28
_ABSENT = (None, None)

GetFromStore = Callable[[Sequence[Any]], list[tuple[Any, Any, Any]]]


class LocalStore:
    """What an IO worker sees of the local object store. One thread at a time."""

    def __init__(self, get_from_store: GetFromStore) -> None:
        """Prepare.

        Args:
            get_from_store: Ray's function that reads objects of the store.
        """
        self._get_from_store = get_from_store
        # References that keep the entries of the core worker, by object id.
        self._known: dict[bytes, Any] = {}

    def get_if_local(self, refs: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Return payload and metadata of the objects that are there, None and None for the others.

        Args:
            refs: the objects. All other objects are forgotten.
        """
        import ray

        core_worker = ray._private.worker.global_worker.core_worker
        known, self._known = self._known, {}
        found: list[tuple[Any, Any]] = []
        for ref in refs:
            object_id = ref.binary()
            own = known.get(object_id) or _tell(core_worker, object_id)
            self._known[object_id] = own
            there = core_worker.object_exists(own)
            found.append(self._get_from_store([own])[0][:2] if there else _ABSENT)
        return found


def _tell(core_worker: Any, object_id: bytes) -> Any:
    """Register an object of the store with the core worker; return the reference that keeps its entry."""
    import ray
    from ray.core.generated import common_pb2, core_worker_pb2

    ref = ray.ObjectRef(object_id)
    reply = core_worker_pb2.GetObjectStatusReply(
        status=core_worker_pb2.GetObjectStatusReply.ObjectStatus.CREATED
    )
    reply.object.metadata = str(common_pb2.ErrorType.Value("OBJECT_IN_PLASMA")).encode()
    # The core worker does not call this address, because the owner's answer is passed along.
    owner = common_pb2.Address(worker_id=os.urandom(_WORKER_ID_BYTES))
    core_worker.deserialize_and_register_object_ref(
        object_id, ray.ObjectRef.nil(), owner.SerializeToString(), reply.SerializeToString()
    )
    return ref
