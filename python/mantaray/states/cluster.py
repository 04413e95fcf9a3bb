"""Looks at every node of a running cluster and reports how the nodes differ.

A task on each node reports the state of a worker process there. All nodes are asked at the same
time, and a node that does not answer in time is reported as such.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mantaray.states import look

ANSWER_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 10.0


class ClusterError(RuntimeError):
    """No cluster could be asked; the message says why."""


@dataclass(frozen=True)
class NodeReport:
    """What one node reported.

    Attributes:
        node_id: Ray's id of the node, hex.
        address: its IP address.
        is_head: whether it is the head.
        metrics_port: where its agent exports metrics; 0 if it exports none.
        ray, python: its releases; empty if the node did not answer.
        mantaray: its release of Mantaray; None if it has none.
        patches: state and reason of each patch, by name.
        problem: why the node did not answer, or why nothing is attached there; None if all is well.
        answered: whether it answered.
    """

    node_id: str
    address: str
    is_head: bool
    metrics_port: int = 0
    ray: str = ""
    python: str = ""
    mantaray: str | None = None
    patches: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    problem: str | None = None
    answered: bool = True

    def aspects(self) -> dict[str, str]:
        """Return everything in which nodes of a cluster should be alike, by name."""
        found = {"Ray": self.ray, "Python": self.python, "Mantaray": self.mantaray or "none"}
        for name, (state, _) in self.patches.items():
            # Both mean attached. Which one it is depends on what the process has imported.
            found[name] = "active" if state == "armed" else state
        return found


def survey(address: str | None = None, timeout_s: float = ANSWER_TIMEOUT_S) -> list[NodeReport]:
    """Ask every living node of a cluster.

    Args:
        address: of the cluster, as `ray.init` takes it. By default RAY_ADDRESS, else the local cluster.
        timeout_s: how long to wait for all answers, in seconds.

    Returns:
        One report for each node, the head's first.

    Raises:
        ClusterError: there is no such cluster, or it cannot be connected to.
    """
    import ray

    target = address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _check_that_it_listens(target)
        ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise ClusterError(f"no cluster at {target}: {error}") from error
    try:
        return _ask(timeout_s)
    finally:
        ray.shutdown()


def _check_that_it_listens(target: str) -> None:
    """Connect to a GCS once, because `ray.init` of Ray 2.48 keeps trying for more than ten minutes.

    Raises:
        OSError: nothing listens there.
        ValueError: the address is not HOST:PORT.
    """
    from ray._private.services import canonicalize_bootstrap_address

    if "://" in target:
        # Ray Client has a time limit of its own.
        return
    address = canonicalize_bootstrap_address(target)
    if address is not None:
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise ValueError("an address is HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()


def _ask(timeout_s: float) -> list[NodeReport]:
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(look)
    task = ray.remote(num_cpus=0, max_retries=0)(look.look)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked: dict[Any, dict[str, Any]] = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[task.options(scheduling_strategy=strategy).remote()] = node
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
    answers = set(ready)
    reports = [
        _report(node, ref if ref in answers else None, timeout_s) for ref, node in asked.items()
    ]
    return sorted(reports, key=lambda report: (not report.is_head, report.address, report.node_id))


def _report(node: Mapping[str, Any], ref: Any, timeout_s: float) -> NodeReport:
    import ray

    node_id, address = str(node["NodeID"]), str(node["NodeManagerAddress"])
    is_head = "node:__internal_head__" in node["Resources"]
    # Ray has -1 where no agent exports metrics.
    port = max(0, int(node.get("MetricsExportPort") or 0))
    if ref is None:
        problem = f"it did not answer within {timeout_s:.0f} s"
        return NodeReport(node_id, address, is_head, port, problem=problem, answered=False)
    try:
        told = ray.get(ref)
    except Exception as error:
        problem = f"the question failed with {type(error).__name__}: {error}".splitlines()[0]
        return NodeReport(node_id, address, is_head, port, problem=problem, answered=False)
    return NodeReport(node_id, address, is_head, port, **told)


def differences(reports: Sequence[NodeReport]) -> dict[str, list[str]]:
    """Return, for each node that differs from most others, how: "spill is off, elsewhere active".

    If two values are equally frequent, the value of the first node (the head) counts as right.

    Args:
        reports: of all nodes.

    Returns:
        Phrases by node id. Nodes that did not answer are left out.
    """
    answered = [report for report in reports if report.answered]
    found: dict[str, list[str]] = {}
    # A node without Mantaray lacks its patches for that reason, which is reported once.
    names = dict.fromkeys(name for report in answered for name in report.aspects())
    for name in names:
        having = [r for r in answered if name in r.aspects()]
        counts = Counter(report.aspects()[name] for report in having)
        most = max(counts.values(), default=0)
        expected = next(
            report.aspects()[name] for report in having if counts[report.aspects()[name]] == most
        )
        for report in having:
            value = report.aspects()[name]
            if value != expected:
                found.setdefault(report.node_id, []).append(
                    f"{name} is {value}, elsewhere {expected}"
                )
    return found


def healthy(reports: Sequence[NodeReport]) -> bool:
    """Return whether every node answered, has Mantaray with nothing refused, and is like the others."""
    refused = any(state == "refused" for r in reports for state, _ in r.patches.values())
    lacking = any(r.problem is not None or r.mantaray is None for r in reports)
    return bool(reports) and not refused and not lacking and not differences(reports)
