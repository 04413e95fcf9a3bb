"""The patch `states`: each node reports how many patches are attached to its processes, as a metric.

The agent of every node already sends the node's own figures to Prometheus. Four more series go with them:
`ray_mantaray_patches`, one for each value of the tag `State`. So do the figures of `mantaray.node_figures`.
"""

from __future__ import annotations

import logging
from collections import Counter
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mantaray.overlay import Installation, Patch, register, status, targets_in
from mantaray.overlay.patch import State

if TYPE_CHECKING:
    from mantaray.node_figures import Figure

_AGENT = "ray.dashboard.modules.reporter.reporter_agent"
_METRICS = "ray._private.metrics_agent"
METRIC = "mantaray_patches"
# An armed patch is attached when the process imports what it changes, which an agent may never do.
_SERIES = {
    State.ARMED: "attached",
    State.ACTIVE: "attached",
    State.NATIVE: "native",
    State.OFF: "off",
    State.REFUSED: "refused",
}
_LOGGER = logging.getLogger(__name__)


def count_states() -> dict[str, int]:
    """Return how many patches of this process are in each of the states that the metric tells apart."""
    counts = Counter(_SERIES[patch.state] for patch in status())
    return {name: counts[name] for name in dict.fromkeys(_SERIES.values())}


def _install(module: ModuleType, installation: Installation) -> None:
    from mantaray import node_figures

    gauge = module.Gauge(
        METRIC,
        "Patches of Mantaray on this node, by state: attached, native, off or refused.",
        "patches",
        ["ip", "State"],
    )
    gauges: dict[str, Any] = {}
    complained = False

    def record(figure: Figure, ip: str) -> Any:
        if figure.name not in gauges:
            keys = ["ip", *figure.tags]
            gauges[figure.name] = module.Gauge(figure.name, figure.description, figure.unit, keys)
        tags = {"ip": ip, **figure.tags}
        return module.Record(gauge=gauges[figure.name], value=figure.value, tags=tags)

    def to_records(wrapped: Any, reporter: Any, args: Any, kwargs: Any) -> Any:
        nonlocal complained
        records = wrapped(*args, **kwargs)
        try:
            stats = kwargs["stats"] if "stats" in kwargs else args[0]
            for name, count in count_states().items():
                tags = {"ip": stats["ip"], "State": name}
                records.append(module.Record(gauge=gauge, value=count, tags=tags))
            agent = reporter._dashboard_agent
            figures = node_figures.figures(agent.session_dir, agent.node_id)
            records += [record(figure, stats["ip"]) for figure in figures]
        except Exception:
            # The node's other figures must not be lost because of ours.
            if not complained:
                complained = True
                _LOGGER.exception("Mantaray's metrics of this node cannot be recorded")
        return records

    installation.wrap(module.ReporterAgent, "_to_records", to_records)


STATES_PATCH = Patch(
    name="states",
    summary="ray_mantaray_patches: a metric of each node with the states of its patches",
    plain_since=None,
    enough_since=None,
    targets=(
        *targets_in(_AGENT, "ReporterAgent._to_records"),
        *targets_in(_METRICS, "Gauge", "Record"),
    ),
    installers={_AGENT: _install},
)

register(STATES_PATCH)
