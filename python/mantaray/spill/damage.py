"""What happens to a spilled object that turns out damaged or lost.

Ray never tells an object's owner that a spill file is bad: the raylet asks for it again for ever. The
owner does know what to do when the node that holds the only copy dies: it forgets that copy, looks
for another, and rebuilds the object from its lineage or, where there is none, stores an error in its
place. So that is what it is shown, in Ray's own messages: a stand-in node without resources is
registered with the GCS, the owner is told that the object was spilled there
(`UpdateObjectLocationBatch`, by which raylets report spilled copies), and the stand-in is
unregistered. It stays listed as a dead node named `mantaray-lost-object`, one for each damaged
object. (Naming a node that is dead already does on Ray 2.48 but not on 2.60, whose owners ignore
such a report as stale.)
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

# How often one object is reported again while the raylet keeps asking.
REPEAT_S = 5.0
_RPC_TIMEOUT_S = 10.0
_LENGTHS = struct.Struct("<QQQ")
_MAX_ADDRESS_BYTES = 1 << 16
_NODE_ID_BYTES = 28
_STAND_IN_NAME = "mantaray-lost-object"


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
    try:
        with _stand_in_node() as node_id:
            request = core_worker_pb2.UpdateObjectLocationBatchRequest(
                intended_worker_id=address.worker_id, node_id=node_id
            )
            update = request.object_location_updates.add(object_id=object_id)
            update.spilled_location_update.spilled_to_local_storage = True
            with _channel(f"{address.ip_address}:{address.port}") as channel:
                stub = core_worker_pb2_grpc.CoreWorkerServiceStub(channel)
                stub.UpdateObjectLocationBatch(request, timeout=_RPC_TIMEOUT_S)
    except Exception as error:
        logger.warning("The owner of a lost object cannot be told: %s", error)
        return False
    return True


@contextmanager
def _stand_in_node() -> Iterator[bytes]:
    """Register a node without resources, yield its id, and unregister it."""
    import ray
    from ray.core.generated import common_pb2, gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

    node = gcs_pb2.GcsNodeInfo(
        node_id=os.urandom(_NODE_ID_BYTES),
        node_name=_STAND_IN_NAME,
        node_manager_address="127.0.0.1",
        node_manager_hostname=_STAND_IN_NAME,
        state=gcs_pb2.GcsNodeInfo.ALIVE,
    )
    register = gcs_service_pb2.RegisterNodeRequest(node_info=node)
    unregister = gcs_service_pb2.UnregisterNodeRequest(node_id=node.node_id)
    unregister.node_death_info.reason = common_pb2.NodeDeathInfo.EXPECTED_TERMINATION
    with _channel(ray._private.worker.global_worker.gcs_client.address) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        stub.RegisterNode(register, timeout=_RPC_TIMEOUT_S)
        try:
            yield bytes(node.node_id)
        finally:
            stub.UnregisterNode(unregister, timeout=_RPC_TIMEOUT_S)


def _channel(target: str) -> Any:
    """Return a channel made by Ray's own function, with its TLS and token settings."""
    import importlib

    for name in ("ray._private.grpc_utils", "ray._private.utils"):
        try:
            return importlib.import_module(name).init_grpc_channel(target)
        except (ImportError, AttributeError):
            continue
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
