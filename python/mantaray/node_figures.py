"""Figures of a whole node, which the node's agent exports as metrics beside Ray's own.

Metrics of each process would be a million series on a large cluster. So the patch `states` asks
the modules named here for figures of the whole node. Only the agent imports these modules.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# Each module has a function `figures`, which takes the session's directory and the node's id in hex.
SOURCES = ("mantaray.gc.node", "mantaray.spill.node", "mantaray.refs.node")


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


@dataclass(frozen=True)
class Metric:
    """A metric whose values come from processes of the node.

    Attributes:
        told: its name in the files of the processes.
        name: of the metric, without the prefix of its patch.
        unit: of the value.
        description: one sentence.
    """

    told: str
    name: str
    unit: str
    description: str

    def figure(self, prefix: str, value: float, tags: Mapping[str, str] | None = None) -> Figure:
        """Return one of its series.

        Args:
            prefix: of the metrics of a patch, such as `mantaray_spill_`.
            value: now.
            tags: the series among those of the metric.
        """
        return Figure(prefix + self.name, self.description, self.unit, value, tags or {})


def figures(session_dir: str, node_id: str) -> Iterator[Figure]:
    """Yield the figures of a node.

    Args:
        session_dir: Ray's directory of the session.
        node_id: in hex.
    """
    for source in SOURCES:
        yield from importlib.import_module(source).figures(session_dir, node_id)
