"""What a report shows, independent of where it was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        node_id: Ray's id of the node, hex.
        address: its IP address.
        is_head: whether it is the head.
        exporter: HOST:PORT where its agent exports metrics; empty if it exports none.
        releases: what it runs, by name ("Ray", "Python", "Mantaray"); empty if the node did not answer.
        patches: state and reason of each patch, by name.
        problem: why the node did not answer, or why nothing is attached there; None if all is well.
        differences: how it differs from most other nodes, in phrases.
    """

    node_id: str
    address: str
    is_head: bool
    exporter: str
    releases: Mapping[str, str] = field(default_factory=dict)
    patches: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    problem: str | None = None
    differences: Sequence[str] = ()

    @property
    def name(self) -> str:
        """How the report calls the node. Several nodes may have one address."""
        return f"{self.address} ({self.node_id[:8]})"

    @property
    def has_mantaray(self) -> bool:
        """Whether the node answered that Mantaray is installed there."""
        return self.releases.get("Mantaray", "none") != "none"


@dataclass(frozen=True)
class Branch:
    """A relay or a node in a tree of relays.

    Attributes:
        depth: how far below the relay that was asked.
        name: of the relay or node.
        facts: what the relay reports of it, in words.
    """

    depth: int
    name: str
    facts: Sequence[str]


@dataclass(frozen=True)
class Relay:
    """A relay that was asked.

    Attributes:
        admin: its admin address, HOST:PORT.
        branches: the relay and what is below it, in the order in which they are shown.
        problem: why it did not answer, or why its tree needs a look; None if all is well.
    """

    admin: str
    branches: Sequence[Branch] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where and when the figures of a report were read.

    Attributes:
        cluster: address of the cluster.
        source: where the figures come from, in words.
        began_s, ended_s: first and last moment that the figures are of, in seconds since the epoch.
        every_s: seconds between two readings.
        mantaray: release that made the report.
    """

    cluster: str
    source: str
    began_s: float
    ended_s: float
    every_s: float
    mantaray: str
