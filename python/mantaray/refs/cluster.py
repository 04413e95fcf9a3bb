"""Asks every process of a running cluster which objects it holds.

Part of `mantaray.refs`. The control plane names the processes. Each is asked directly, with the call
that `ray memory` makes through the raylets, so a process that does not answer is known by name. Nothing
has to be switched on in the cluster, and no driver is started in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

_MAX_MESSAGE_BYTES = 512 * 1024 * 1024
_MAX_THREADS = 32
_NO_LIMIT = -1


class ClusterError(RuntimeError):
    """The cluster cannot be asked; the message says why."""


@dataclass(frozen=True)
class Held:
    """What one process knows of one object.

    Attributes:
        object_id: in hex.
        size_bytes: of the value; None when the process does not know it.
        local_refs: references in variables of the process, and those that Ray itself holds for it.
        task_refs: tasks submitted by the process that have the object as an argument and have not ended.
        pinned: whether the process uses the value in the object store.
        contained_in: objects of the process whose values contain a reference to it, in hex.
        call_site: where the reference was made; empty unless RAY_record_ref_creation_sites is 1.
        task_status: of the task that makes the object, if the process owns it; else empty.
    """

    object_id: str
    size_bytes: int | None
    local_refs: int
    task_refs: int
    pinned: bool
    contained_in: tuple[str, ...]
    call_site: str
    task_status: str

    @property
    def owned(self) -> bool:
        """Whether the process owns the object: only an owner knows how its task fares."""
        return bool(self.task_status)


@dataclass(frozen=True)
class Process:
    """A driver or worker, and what it holds.

    Attributes:
        worker_id: in hex.
        pid: its process id on its node.
        address: "ip:port" where it answers.
        kind: "driver" or "worker".
        name: the class of the actor in it; empty for a driver or a worker for tasks.
        held: one entry an object; empty if it did not answer.
        problem: why it did not answer; None if it did.
    """

    worker_id: str
    pid: int
    address: str
    kind: str
    name: str = ""
    held: tuple[Held, ...] = field(default=(), repr=False)
    problem: str | None = None

    def __str__(self) -> str:
        what = f"actor {self.name}" if self.name else self.kind
        return f"{what}, process {self.pid} at {self.address}"


def ask(address: str, object_id: str | None = None, timeout_s: float = 2.0) -> list[Process]:
    """Ask all live processes of a cluster, at once.

    Args:
        address: of the control plane, "ip:port".
        object_id: in hex; only what is known of this object is kept. None keeps everything.
        timeout_s: how long each process may take to answer, in seconds.

    Raises:
        ClusterError: the control plane does not answer.
    """
    workers, actors = _workers(address)
    if not workers:
        return []
    wanted = None if object_id is None else bytes.fromhex(object_id)
    with ThreadPoolExecutor(min(_MAX_THREADS, len(workers))) as threads:
        asked = threads.map(lambda worker: _ask_one(worker, wanted, timeout_s), workers)
        return [replace(each, name=actors.get(each.worker_id, "")) for each in asked]


def _workers(address: str) -> tuple[list[Any], dict[str, str]]:
    """Return the live workers and drivers, and the class of the actor in each worker that has one."""
    from ray._private.state import GlobalState
    from ray._raylet import GcsClientOptions
    from ray.core.generated import common_pb2, gcs_pb2

    options = GcsClientOptions.create(
        address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
    )
    state = GlobalState()
    state._initialize_global_state(options)
    try:
        alive = {node["NodeID"] for node in state.node_table() if node["Alive"]}
        accessor = getattr(state, "global_state_accessor", None) or state._global_state_accessor
        raw = accessor.get_worker_table()
        raw_actors = accessor.get_actor_table(None, None)
    except Exception as error:
        raise ClusterError(f"the control plane at {address} does not answer: {error}") from error
    found = [gcs_pb2.WorkerTableData.FromString(each) for each in raw]
    kinds = (common_pb2.WORKER, common_pb2.DRIVER)
    actors = {
        actor.address.worker_id.hex(): actor.class_name
        for actor in map(gcs_pb2.ActorTableData.FromString, raw_actors)
    }
    live = [
        worker
        for worker in found
        if worker.is_alive and worker.worker_type in kinds and _node_of(worker) in alive
    ]
    return live, actors


def _node_of(worker: Any) -> str:
    # The field was called otherwise before 2.50.
    address = worker.worker_address
    node_id: bytes = getattr(address, "node_id", b"") or getattr(address, "raylet_id", b"")
    return node_id.hex()


def _ask_one(worker: Any, wanted: bytes | None, timeout_s: float) -> Process:
    import grpc
    from ray.core.generated import common_pb2, core_worker_pb2, core_worker_pb2_grpc

    where = worker.worker_address
    about: dict[str, Any] = {
        "worker_id": where.worker_id.hex(),
        "pid": worker.pid,
        "address": f"{where.ip_address}:{where.port}",
        "kind": "driver" if worker.worker_type == common_pb2.DRIVER else "worker",
    }
    request = core_worker_pb2.GetCoreWorkerStatsRequest(
        intended_worker_id=where.worker_id, include_memory_info=True, limit=_NO_LIMIT
    )
    channel = _channel(about["address"])
    try:
        stub = core_worker_pb2_grpc.CoreWorkerServiceStub(channel)
        stats = stub.GetCoreWorkerStats(request, timeout=timeout_s).core_worker_stats
    except grpc.RpcError as error:
        slow = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        problem = f"no answer within {timeout_s:g} s" if slow else str(error.details())
        return Process(**about, problem=problem)
    finally:
        channel.close()
    held = tuple(_held(stats.object_refs, wanted))
    return Process(**about, held=held)


def _channel(address: str) -> Any:
    try:
        from ray._private.grpc_utils import init_grpc_channel
    except ImportError:
        from ray._private.utils import init_grpc_channel
    options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
    return init_grpc_channel(address, options=options)


def _held(refs: Iterable[Any], wanted: bytes | None) -> Iterable[Held]:
    from ray.core.generated import common_pb2

    for ref in refs:
        if wanted is not None and ref.object_id != wanted:
            continue
        status = ref.task_status
        yield Held(
            object_id=ref.object_id.hex(),
            size_bytes=ref.object_size if ref.object_size >= 0 else None,
            local_refs=ref.local_ref_count,
            task_refs=ref.submitted_task_ref_count,
            pinned=ref.pinned_in_memory,
            contained_in=tuple(outer.hex() for outer in ref.contained_in_owned),
            call_site=ref.call_site,
            task_status="" if not status else common_pb2.TaskStatus.Name(status),
        )
