"""Wraps the profiling endpoints of the dashboard's head: it finds the node first, then Ray's handler runs.

A handler of Ray looks up the agent of a node by address. This module decides which node the link means
(see `links`), and makes the look-up return that node's agent during the request.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

from mantaray.dashboard.links import (
    LinkError,
    LiveNode,
    check_pid,
    named_node,
    nodes_at,
    owner_of,
)

Handler = Callable[[Any, Any], Awaitable[Any]]

# The agent that the current request is meant for: (node id, ip, HTTP port, gRPC port).
_AGENT: ContextVar[tuple[Any, ...] | None] = ContextVar("mantaray_profiled_agent", default=None)
# How many entries the GCS may return at once. Ray's own limit is 10,000, so this one is never
# reached.
_MOST_ENTRIES = 10_000_000


def resolving(module: ModuleType, original: Handler) -> Handler:
    """Return a handler of a profiling endpoint that finds the node first.

    Args:
        module: Ray's module of these endpoints.
        original: the handler in it, which does everything else.
    """

    @functools.wraps(original)
    async def handler(head: Any, request: Any) -> Any:
        if not _is_worker_link(module, request.query):
            return await original(head, request)
        from aiohttp import web

        try:
            node, is_told = await _find_node(head, request)
            if not is_told:
                raise web.HTTPFound(_link(request, node))
            agent = await _agent_of(head, module, node)
        except LinkError as error:
            return web.Response(status=error.status, text=error.text)
        token = _AGENT.set(agent)
        try:
            return await original(head, _by_address(request, node))
        finally:
            _AGENT.reset(token)

    return handler


def answering(original: Handler) -> Handler:
    """Return a look-up of an agent by address that knows which node the request is meant for.

    Args:
        original: Ray's look-up; requests of other endpoints go to it.
    """

    @functools.wraps(original)
    async def look_up(head: Any, ip: Any) -> Any:
        agent = _AGENT.get()
        return await original(head, ip) if agent is None else agent

    return look_up


def _is_worker_link(module: ModuleType, query: Any) -> bool:
    """Return whether Mantaray handles a link: it is not of a task, it is complete, and profiling is on."""
    if not getattr(module, "RAY_DASHBOARD_ENABLE_PROFILING", True) or "task_id" in query:
        return False
    return bool(query.get("pid") and (query.get("node_id") or query.get("ip")))


async def _find_node(head: Any, request: Any) -> tuple[LiveNode, bool]:
    """Return the node that is meant, and whether the link names it (if not, redirect)."""
    query = request.query
    pid, ip = check_pid(query["pid"]), query.get("ip")
    nodes = await _live_nodes(head)
    if query.get("node_id"):
        return named_node(query["node_id"], ip, nodes), True
    candidates = nodes_at(ip, nodes)
    if len(candidates) == 1:
        return candidates[0], True
    holders = await _nodes_with_process(head, pid)
    return owner_of(pid, ip, candidates, holders, _link(request, None)), False


def _source(head: Any) -> Any:
    source = getattr(head, "_state_api_data_source_client", None)
    if source is None:
        raise LinkError(503, "The dashboard is still starting; try again in a moment.")
    return source


async def _live_nodes(head: Any) -> list[LiveNode]:
    reply = await _source(head).get_all_node_info(
        timeout=_timeout_s(), limit=_MOST_ENTRIES, filters=[("state", "=", "ALIVE")]
    )
    # 2.60 returns a mapping and a count, 2.48 the GCS's message.
    infos = reply[0].values() if isinstance(reply, tuple) else reply.node_info_list
    return [
        LiveNode(info.node_id.hex(), info.node_manager_address, info.node_name)
        for info in infos
        if info.state == info.ALIVE
    ]


async def _nodes_with_process(head: Any, pid: int) -> set[str]:
    """Return the ids of the nodes that have a live worker or driver with this process id."""
    reply = await _source(head).get_all_worker_info(
        timeout=_timeout_s(), limit=_MOST_ENTRIES, filters=[("is_alive", "=", "True")]
    )
    addresses = [
        entry.worker_address
        for entry in reply.worker_table_data
        if entry.is_alive and entry.pid == pid
    ]
    # The field has another name in some releases.
    return {(getattr(a, "node_id", b"") or getattr(a, "raylet_id", b"")).hex() for a in addresses}


async def _agent_of(head: Any, module: ModuleType, node: LiveNode) -> tuple[Any, ...]:
    agent: tuple[Any, ...] | None = await head._get_stub_address_by_node_id(
        module.NodeID.from_hex(node.node_id)
    )
    if agent is None:
        raise LinkError(503, f"The agent of node {node.node_id} has not reported its port yet.")
    return agent


def _timeout_s() -> float:
    from ray.dashboard.consts import GCS_RPC_TIMEOUT_SECONDS

    return float(GCS_RPC_TIMEOUT_SECONDS)


def _other_parameters(request: Any) -> list[tuple[str, str]]:
    return [(key, value) for key, value in request.query.items() if key not in ("ip", "node_id")]


def _link(request: Any, node: LiveNode | None) -> str:
    """Return the request's own link with another node or none, relative to where it came from.

    The link is relative because a proxy may serve the dashboard below a path.
    """
    parameters = _other_parameters(request)
    if node is not None:
        parameters.append(("node_id", node.node_id))
    return f"{request.path.rpartition('/')[2]}?{urlencode(parameters)}"


def _by_address(request: Any, node: LiveNode) -> Any:
    """Return the request in the form that every Ray understands."""
    parameters = [*_other_parameters(request), ("ip", node.address)]
    return request.clone(rel_url=request.rel_url.with_query(parameters))
