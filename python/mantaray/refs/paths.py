"""Asks the processes that hold an object which of their variables hold it.

Part of `mantaray.refs`. A process of this machine is asked at its socket; see `mantaray.refs.listener`. A
process of another node answers only on its own machine, so a short task on that node asks it. This program
connects to the cluster as a driver only if it needs such a task.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mantaray.refs import listener
from mantaray.refs.cluster import Process

_MAX_THREADS = 16
# How long a worker may take to start on the other node.
_TASK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Paths:
    """What one process answers about its own references to one object.

    Attributes:
        references: how many Python references there are. (Ray also counts those of its compiled part.)
        paths: how the first of them are reached, in words.
        cut_off: whether there was no time for all of them.
        stop_ms: how long the process stopped for the question, in milliseconds.
        problem: why the process did not answer; None if it did.
    """

    references: int = 0
    paths: tuple[str, ...] = ()
    cut_off: bool = False
    stop_ms: float = 0.0
    problem: str | None = None


@dataclass(frozen=True)
class Question:
    """A question to every holder.

    Attributes:
        object_id: in hex.
        timeout_s: how long each process may search, in seconds.
        max_stop_ms: how long each process may stop, in milliseconds.
    """

    object_id: str
    timeout_s: float
    max_stop_ms: float


def find(address: str, question: Question, holders: Sequence[Process]) -> dict[str, Paths]:
    """Return what each of some processes answers, by the id of its worker.

    Args:
        address: of the control plane, "ip:port".
        question: what to ask.
        holders: the processes that have local references to the object.
    """
    near = [process for process in holders if is_near(process)]
    far = [process for process in holders if process not in near]
    found: dict[str, Paths] = {}
    if near:
        with ThreadPoolExecutor(min(_MAX_THREADS, len(near))) as threads:
            told = threads.map(lambda each: ask_near(each.worker_id, each.pid, question), near)
            found.update(zip((each.worker_id for each in near), told, strict=True))
    if far:
        found.update(ask_far(address, question, far))
    return found


def is_near(process: Process) -> bool:
    """Return whether a process has an address of this machine."""
    ip = process.address.rsplit(":", 1)[0].strip("[]")
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def ask_near(worker_id: str, pid: int, question: Question) -> Paths:
    """Ask a process of this machine."""
    try:
        told = listener.ask(
            worker_id,
            pid,
            question.object_id,
            timeout_s=question.timeout_s,
            max_stop_ms=question.max_stop_ms,
        )
    except listener.NoAnswerError as error:
        return Paths(problem=str(error))
    return Paths(told["references"], tuple(told["paths"]), told["cut_off"], told["stop_ms"])


def ask_far(address: str, question: Question, holders: Sequence[Process]) -> dict[str, Paths]:
    """Ask processes of other nodes, through a task on the node of each."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, namespace="mantaray", log_to_driver=False, logging_level="ERROR")
    try:
        asking: dict[str, Any] = {}
        for each in holders:
            there = NodeAffinitySchedulingStrategy(each.node_id, soft=False)
            task = ray.remote(num_cpus=0, max_retries=0)(ask_near)
            options = task.options(scheduling_strategy=there)
            asking[each.worker_id] = options.remote(each.worker_id, each.pid, question)
        return {worker_id: _result(ref, question) for worker_id, ref in asking.items()}
    finally:
        ray.shutdown()


def _result(ref: Any, question: Question) -> Paths:
    import ray

    try:
        told: Paths = ray.get(ref, timeout=question.timeout_s + _TASK_TIMEOUT_S)
    except Exception as error:
        first_line = str(error).strip().splitlines()[0]
        return Paths(problem=f"the task that asks on its node failed: {first_line}")
    return told
