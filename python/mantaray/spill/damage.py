"""The owners of spilled objects that are lost: asking them, and telling them.

Ray never tells an object's owner that a spill file is bad: the raylet asks for the file again for ever.
But an owner knows what to do when the node with the only copy dies. It forgets that copy, looks
for another, and rebuilds the object from its lineage. If there is no lineage, it stores an error in place
of the object. This module makes the owner do so with Ray's own messages. It registers a stand-in node
without resources with the GCS, reports to the owner that the object was spilled there
(`UpdateObjectLocationBatch`, by which raylets report spilled copies), and unregisters the stand-in.
The stand-in stays listed as a dead node named `mantaray-lost-object`. One stand-in serves all
objects that are reported together. A stand-in cannot be used again: owners of Ray 2.60 ignore a report
about a node that is dead already. (Owners of 2.48 accept it.)
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

_RPC_TIMEOUT_S = 10.0
_NODE_ID_BYTES = 28
_STAND_IN_NAME = "mantaray-lost-object"
_PULL = "/ray.rpc.ObjectManagerService/Pull"


@dataclass(frozen=True)
class Whereabouts:
    """What an object's owner knows about the object.

    Attributes:
        wanted: whether the owner still refers to the object.
        pending: whether a task that makes it is under way.
        nodes: ids of nodes that hold a copy, in memory or spilled.
    """

    wanted: bool
    pending: bool
    nodes: frozenset[bytes]


def whereabouts(owner_address: bytes, object_id: bytes) -> Whereabouts:
    """Ask an object's owner where the object is.

    Args:
        owner_address: serialized `ray.rpc.Address` of the owner.
        object_id: the object's 28 bytes.

    Raises:
        Exception: the owner cannot be asked.
    """
    from ray.core.generated import core_worker_pb2

    address = _parse(owner_address)
    request = core_worker_pb2.GetObjectLocationsOwnerRequest(
        intended_worker_id=address.worker_id, object_ids=[object_id]
    )
    with _owner(address) as stub:
        reply = stub.GetObjectLocationsOwner(request, timeout=_RPC_TIMEOUT_S)
    info = reply.object_location_infos[0]
    nodes = {bytes(node) for node in info.node_ids}
    if info.spilled_url and info.spilled_node_id:
        nodes.add(bytes(info.spilled_node_id))
    return Whereabouts(not info.ref_removed, info.pending_creation, frozenset(nodes))


def report_lost(lost: Mapping[bytes, bytes]) -> set[bytes]:
    """Tell the owners of objects that the spilled copies are lost.

    Args:
        lost: serialized owner addresses, by object id.

    Returns:
        The ids of the objects whose owner accepted the report.
    """
    by_owner: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for object_id, address in lost.items():
        by_owner[address].append(object_id)
    told: set[bytes] = set()
    try:
        with _stand_in_node() as node_id:
            for address, object_ids in by_owner.items():
                if _report_spilled(address, object_ids, node_id):
                    told.update(object_ids)
    except Exception as error:
        logger.warning("The owners of lost objects cannot be told: %s", error)
        return set()
    return told


def _report_spilled(owner_address: bytes, object_ids: list[bytes], node_id: bytes) -> bool:
    """Report to an owner that objects were spilled on a node; return whether it accepted the report."""
    from ray.core.generated import core_worker_pb2

    try:
        address = _parse(owner_address)
        request = core_worker_pb2.UpdateObjectLocationBatchRequest(
            intended_worker_id=address.worker_id, node_id=node_id
        )
        for object_id in object_ids:
            update = request.object_location_updates.add(object_id=object_id)
            update.spilled_location_update.spilled_to_local_storage = True
        with _owner(address) as stub:
            stub.UpdateObjectLocationBatch(request, timeout=_RPC_TIMEOUT_S)
    except Exception as error:
        logger.warning("The owner of a lost object cannot be told: %s", error)
        return False
    return True


def ask_for_copy(node_id: bytes, object_id: bytes, own_node_id: bytes) -> bool:
    """Ask another node's object manager to send an object to this node.

    The raylet of this node accepts the object while a process waits for it. The raylet itself does not
    ask for a copy, because it assumes that it can restore the object from its own disk.

    Args:
        node_id: the node that holds a copy.
        object_id: the object's 28 bytes.
        own_node_id: this node.

    Returns:
        False when that node is dead.

    Raises:
        Exception: the node cannot be asked.
    """
    import ray

    for node in ray._private.state.state.node_table():
        if node["NodeID"] == node_id.hex() and node["Alive"]:
            request = _field(1, own_node_id) + _field(2, object_id)
            target = f"{node['NodeManagerAddress']}:{node['ObjectManagerPort']}"
            with _channel(target) as channel:
                # Ray's wheel has no Python class for this message of two fields.
                call = channel.unary_unary(_PULL, bytes, bytes)
                call(request, timeout=_RPC_TIMEOUT_S)
            return True
    return False


def _field(number: int, value: bytes) -> bytes:
    """Return a length-delimited protobuf field of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


def _parse(owner_address: bytes) -> Any:
    from ray.core.generated import common_pb2

    address = common_pb2.Address()
    address.ParseFromString(owner_address)
    return address


@contextmanager
def _owner(address: Any) -> Iterator[Any]:
    from ray.core.generated import core_worker_pb2_grpc

    with _channel(f"{address.ip_address}:{address.port}") as channel:
        yield core_worker_pb2_grpc.CoreWorkerServiceStub(channel)


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


def is_a_result(metadata: bytes) -> bool:
    """Return whether a stored object is the result of a task, and not an error that says it is lost."""
    from ray.core.generated import common_pb2

    failed_task = str(common_pb2.ErrorType.Value("TASK_EXECUTION_EXCEPTION")).encode()
    return not metadata.isdigit() or metadata == failed_task


def abandon_unsealed_object(error: Exception) -> NoReturn:
    """End this IO worker, so that the store drops the object that it had begun to restore.

    A large object is checked while it streams into the store. If the check fails, the store holds an
    object that must never be sealed. The store removes such an object only when its creator ends. The
    raylet then starts another IO worker.
    """
    logger.critical("%s. This IO worker ends so that the object is not published.", error)
    logging.shutdown()
    os._exit(1)
