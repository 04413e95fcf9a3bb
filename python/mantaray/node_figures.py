"""Figures of a whole node, which the node's agent exports as metrics beside Ray's own.

A metric of each process would be a million series on a large cluster. The patch `states` asks
the modules named here for figures of the node. Only the agent imports them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# Each has a function `figures`, which takes the session's directory and the node's id in hex.
SOURCES = ("mantaray.gc.node", "mantaray.spill.node")


@dataclass(frozen=True)
class Figure:
    """One series.

    Attributes:
        name: of the metric, without the prefix `ray_`.
        description: of the metric, one sentence.
        unit: of the value.
        value: now.
        tags: the series among those of the metric. All series of a metric have the same keys.
    """

    name: str
    description: str
    unit: str
    value: float
    tags: Mapping[str, str] = field(default_factory=dict)


def figures(session_dir: str, node_id: str) -> Iterator[Figure]:
    """Yield the figures of a node.

    Args:
        session_dir: Ray's directory of the session.
        node_id: in hex.
    """
    for source in SOURCES:
        yield from importlib.import_module(source).figures(session_dir, node_id)
