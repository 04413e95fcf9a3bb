"""Decides which node a profiling link means, from values alone, without Ray or a web server.

A link names a process by its id and a node by `node_id` or, as old pages did, by `ip`. Several
nodes may share an address (pods on the network of their host, raylets on one machine), and process
ids repeat between pid namespaces, so an address is not enough to find the process.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Iterable
from dataclasses import dataclass

# Hexadecimal digits of a node id, which has 28 bytes.
NODE_ID_DIGITS = 56


class LinkError(Exception):
    """A link that cannot be followed. The message is for the person who followed it."""

    def __init__(self, status: int, text: str) -> None:
        """Keep the answer.

        Args:
            status: of the HTTP response.
            text: its body.
        """
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class LiveNode:
    """A node that is alive according to the GCS.

    Attributes:
        node_id: in lower-case hexadecimal.
        address: its ip.
        name: of the node; Ray's default is the address.
    """

    node_id: str
    address: str
    name: str


def check_pid(text: str) -> int:
    """Return the process id that a link gives.

    Raises:
        LinkError: it is not a number.
    """
    if not (text.isascii() and text.isdecimal()):
        raise LinkError(400, f"pid must be the number of a process, not {text[:80]!r}.")
    return int(text)


def named_node(node_id: str, ip: str | None, nodes: Iterable[LiveNode]) -> LiveNode:
    """Return the live node with this id.

    Args:
        node_id: as the link gives it.
        ip: the address that the link gives too, if any; it must be the node's.
        nodes: all live nodes.

    Raises:
        LinkError: the id is not one, names no live node, or contradicts the address.
    """
    wanted = node_id.lower()
    if len(wanted) != NODE_ID_DIGITS or not set(wanted) <= set(string.hexdigits):
        raise LinkError(
            400, f"node_id must be {NODE_ID_DIGITS} hexadecimal digits, not {node_id[:80]!r}."
        )
    found = next((node for node in nodes if node.node_id == wanted), None)
    if found is None:
        raise LinkError(404, f"No live node has the node_id {wanted}: it is unknown or dead.")
    if ip and ip != found.address:
        raise LinkError(
            400,
            f"node_id and ip contradict each other: node {wanted} has the address "
            f"{found.address}, not {ip[:80]}. Give only one of them.",
        )
    return found


def nodes_at(ip: str, nodes: Iterable[LiveNode]) -> list[LiveNode]:
    """Return the live nodes with this address, at least one, ordered by id.

    Raises:
        LinkError: there is none.
    """
    found = sorted((n for n in nodes if n.address == ip), key=lambda node: node.node_id)
    if not found:
        raise LinkError(404, f"No live node has the address {ip[:80]}.")
    return found


def owner_of(
    pid: int, ip: str, candidates: Collection[LiveNode], holders: Collection[str], link: str
) -> LiveNode:
    """Return the node of an address that has a live worker or driver with this process id.

    Args:
        pid: the process.
        ip: the address they share.
        candidates: the live nodes with that address.
        holders: ids of the nodes that have such a process.
        link: the link without node_id. If none can be chosen, the error lists a link for each
            candidate.

    Raises:
        LinkError: none has it, or more than one has.
    """
    found = [node for node in candidates if node.node_id in holders]
    if len(found) == 1:
        return found[0]
    listed = found or candidates
    lines = [f"  {link}&node_id={n.node_id}    (node {n.name})" for n in listed]
    if found:
        status, why = 409, f"{len(found)} nodes with the address {ip} have a process {pid}"
    else:
        status = 404
        why = (
            f"{len(candidates)} nodes share the address {ip}, and none of them has a live worker "
            f"or driver with the process id {pid}"
        )
    raise LinkError(status, "\n".join([f"{why}. Say which node is meant:", *lines, ""]))
