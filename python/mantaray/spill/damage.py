"""What happens to a spilled object that turns out damaged or lost.

Ray never tells an object's owner that a spill file is bad: the raylet asks for it again for ever. The
owner does know what to do about a copy that was spilled on a node which is dead: it forgets that
copy, looks for another, and rebuilds the object from its lineage or, where there is none, stores an
error in its place. So that is what it is told, in Ray's own message (`UpdateObjectLocationBatch`,
the one by which raylets report spilled copies), with a node id that no node has.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

# How often one object is reported again while the raylet keeps asking.
REPEAT_S = 5.0
_RPC_TIMEOUT_S = 10.0
_LENGTHS = struct.Struct("<QQQ")
_MAX_ADDRESS_BYTES = 1 << 16
_NODE_ID_BYTES = 28


def owner_address_of(url: str) -> bytes | None:
    """Return the serialized owner address in front of a spilled object, or None.

    The bytes are whatever lies there: they may be damaged themselves.

    Args:
        url: the object's URL; if it was set aside, it is read under that name.
    """
    from mantaray._native import spill

    path, _, query = url.partition("?offset=")
    offset = int(query.partition("&")[0])
    for name in (path + spill.DAMAGED_SUFFIX, path):
        try:
            with open(name, "rb") as file:
                file.seek(offset)
                address_bytes, _, _ = _LENGTHS.unpack(file.read(_LENGTHS.size))
                if address_bytes <= _MAX_ADDRESS_BYTES:
                    return file.read(address_bytes)
        except (OSError, struct.error):
            continue
    return None


def report_lost(owner_address: bytes, object_id: bytes) -> bool:
    """Tell an object's owner that the spilled copy is lost; return whether it took the word.

    Args:
        owner_address: serialized `ray.rpc.Address` of the owner.
        object_id: the object's 28 bytes.
    """
    try:
        from google.protobuf.message import DecodeError
        from ray.core.generated import common_pb2, core_worker_pb2, core_worker_pb2_grpc
    except ImportError:
        logger.debug("Ray's message classes are not installed.", exc_info=True)
        return False
    address = common_pb2.Address()
    try:
        address.ParseFromString(owner_address)
    except DecodeError:
        return False
    request = core_worker_pb2.UpdateObjectLocationBatchRequest(
        intended_worker_id=address.worker_id, node_id=os.urandom(_NODE_ID_BYTES)
    )
    update = request.object_location_updates.add(object_id=object_id)
    update.spilled_location_update.spilled_to_local_storage = True
    try:
        with _channel(f"{address.ip_address}:{address.port}") as channel:
            stub = core_worker_pb2_grpc.CoreWorkerServiceStub(channel)
            stub.UpdateObjectLocationBatch(request, timeout=_RPC_TIMEOUT_S)
    except Exception as error:
        logger.warning("The owner of a lost object cannot be reached: %s", error)
        return False
    return True


def _channel(target: str) -> Any:
    """Return a channel made by Ray's own function, with its TLS and token settings."""
    import importlib

    for module in ("ray._private.grpc_utils", "ray._private.utils"):
        make = getattr(importlib.import_module(module), "init_grpc_channel", None)
        if make is not None:
            return make(target)
    raise RuntimeError("this Ray has no init_grpc_channel")


def store_error(put: Callable[[bytes, int, Any, Any, bytes], None], ref: Any) -> None:
    """Put an ObjectLostError where the object would have been restored.

    Args:
        put: puts metadata, size, data, object and owner address into the local store.
        ref: the object.
    """
    from ray.core.generated import common_pb2

    metadata = str(common_pb2.ErrorType.Value("OBJECT_LOST")).encode()
    address = common_pb2.Address(worker_id=os.urandom(_NODE_ID_BYTES)).SerializeToString()
    put(metadata, 0, None, ref, address)


def abandon_unsealed_object(error: Exception) -> NoReturn:
    """End this IO worker, whose store then drops the object it had begun to restore.

    A large object is checked while it streams into the store. When that finds damage the store holds
    an object that must never be sealed and that only its creator's end removes; the raylet starts
    another IO worker.
    """
    logger.critical("%s. This IO worker ends so that the object is not published.", error)
    logging.shutdown()
    os._exit(1)
