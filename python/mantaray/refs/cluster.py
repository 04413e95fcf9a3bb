"""Asks every process of a running cluster which objects it holds.

Part of `mantaray.refs`. The control plane lists the processes. This module asks each process directly,
with the call that `ray memory` makes through the raylets, so it can name a process that does not answer.
It needs no setting of the cluster and starts no driver in it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

_MAX_MESSAGE_BYTES = 512 * 1024 * 1024
_MAX_THREADS = 32
_NO_LIMIT = -1
# How long one process may delay the next process of its node, and how long all of them together.
_TURN_S = 0.3
_LONGEST_WAIT_S = 1.0
_STATS = "/ray.rpc.CoreWorkerService/GetCoreWorkerStats"
# The control plane keeps no more tasks than this by default.
_MAX_TASKS = 100_000


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
        node_id: of its node, in hex.
    """

    worker_id: str
    pid: int
    address: str
    kind: str
    name: str = ""
    held: tuple[Held, ...] = field(default=(), repr=False)
    problem: str | None = None
    node_id: str = ""

    def __str__(self) -> str:
        what = f"actor {self.name}" if self.name else self.kind
        return f"{what}, process {self.pid} at {self.address}"


@dataclass(frozen=True)
class Starts:
    """When the work of a cluster began, as Unix times.

    Attributes:
        tasks_s: by the task's id in hex. Ray remembers a bounded number of tasks.
        jobs_s: by the job's id in hex.
    """

    tasks_s: Mapping[str, float]
    jobs_s: Mapping[str, float]


def ask(address: str, object_id: str | None = None, timeout_s: float = 2.0) -> list[Process]:
    """Ask all live processes of a cluster: all nodes at once, the processes of a node one after another.

    An answer about 100,000 references keeps a processor busy for a while. Many answers at once would stop
    the other threads of a small node. A process that does not answer delays the others only for a moment.

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
    turns = _Turns()
    # The nodes alternate in this order. Otherwise the processes of one node could occupy all threads.
    in_turn = sorted(zip(_places(workers), workers, strict=True), key=lambda each: each[0])
    with ThreadPoolExecutor(min(_MAX_THREADS, len(workers))) as threads:
        asked = threads.map(
            lambda each: turns.take(
                _node_of(each[1]), each[0], lambda: _ask_one(each[1], wanted, timeout_s)
            ),
            in_turn,
        )
        return [replace(each, name=actors.get(each.worker_id, "")) for each in asked]


class _Turns:
    """Lets the processes of a node answer one at a time, unless an answer takes long."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def take(self, node_id: str, place: int, fn: Callable[[], Process]) -> Process:
        """Call a function when it is this place's turn on the node, or after a limited wait."""
        lock = self._locks[node_id]
        is_alone = lock.acquire(timeout=min(place * _TURN_S, _LONGEST_WAIT_S))
        try:
            return fn()
        finally:
            if is_alone:
                lock.release()


def _places(workers: Sequence[Any]) -> list[int]:
    """Return the place of each process among those of its node, 0 for the first."""
    counts: dict[str, int] = defaultdict(int)
    places = []
    for worker in workers:
        node_id = _node_of(worker)
        places.append(counts[node_id])
        counts[node_id] += 1
    return places


def starts(address: str, timeout_s: float) -> Starts:
    """Ask the control plane when tasks and jobs began.

    Args:
        address: of the control plane, "ip:port".
        timeout_s: how long it may take, in seconds.

    Raises:
        ClusterError: the control plane does not answer.
    """
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    state = _state(address)
    channel = _channel(address)
    try:
        jobs_s = {job["JobID"]: job["StartTime"] / 1e3 for job in state.job_table()}
        stub = gcs_service_pb2_grpc.TaskInfoGcsServiceStub(channel)
        request = gcs_service_pb2.GetTaskEventsRequest(limit=_MAX_TASKS)
        told = stub.GetTaskEvents(request, timeout=timeout_s).events_by_task
    except grpc.RpcError as error:
        raise ClusterError(f"the control plane at {address} lists no tasks: {error}") from error
    finally:
        channel.close()
    tasks_s: dict[str, float] = {}
    for each in told:
        began_s = min(each.state_updates.state_ts_ns.values(), default=0) / 1e9
        task = each.task_id.hex()
        # Attempts are listed in order. The last attempt made the object.
        if began_s and began_s >= tasks_s.get(task, 0.0):
            tasks_s[task] = began_s
    return Starts(tasks_s, jobs_s)


def _state(address: str) -> Any:
    """Return Ray's view of a cluster's control plane."""
    from ray._private.state import GlobalState
    from ray._raylet import GcsClientOptions

    options = GcsClientOptions.create(
        address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
    )
    state = GlobalState()
    state._initialize_global_state(options)
    return state


def _workers(address: str) -> tuple[list[Any], dict[str, str]]:
    """Return the live workers and drivers, and the class of the actor in each worker that has one."""
    from ray.core.generated import common_pb2, gcs_pb2

    state = _state(address)
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
    # The field had another name before Ray 2.50.
    address = worker.worker_address
    node_id: bytes = getattr(address, "node_id", b"") or getattr(address, "raylet_id", b"")
    return node_id.hex()


def _ask_one(worker: Any, wanted: bytes | None, timeout_s: float) -> Process:
    import grpc
    from ray.core.generated import common_pb2, core_worker_pb2

    where = worker.worker_address
    about: dict[str, Any] = {
        "worker_id": where.worker_id.hex(),
        "pid": worker.pid,
        "address": f"{where.ip_address}:{where.port}",
        "kind": "driver" if worker.worker_type == common_pb2.DRIVER else "worker",
        "node_id": _node_of(worker),
    }
    request = core_worker_pb2.GetCoreWorkerStatsRequest(
        intended_worker_id=where.worker_id, include_memory_info=True, limit=_NO_LIMIT
    )
    channel = _channel(about["address"])
    try:
        # The undecoded answer is searched first, because most processes do not know the wanted object.
        call = channel.unary_unary(
            _STATS, request_serializer=core_worker_pb2.GetCoreWorkerStatsRequest.SerializeToString
        )
        told: bytes = call(request, timeout=timeout_s)
    except grpc.RpcError as error:
        slow = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        problem = f"no answer within {timeout_s:g} s" if slow else str(error.details())
        return Process(**about, problem=problem)
    finally:
        channel.close()
    if wanted is not None and wanted not in told:
        return Process(**about)
    stats = core_worker_pb2.GetCoreWorkerStatsReply.FromString(told).core_worker_stats
    return Process(**about, held=tuple(_held(stats.object_refs, wanted)))


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
