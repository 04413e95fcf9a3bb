"""The metrics of a node about the guards of Ray's counter: sums over all processes.

A node has four series, however many processes it has. They exist with the value zero before anything
happens, so Prometheus sees the first event as an increase.
"""

from __future__ import annotations

from pathlib import Path

from mantaray.node_figures import Figure, Metric
from mantaray.node_files import NodeFiles
from mantaray.refs.telemetry import COUNTS, DIRECTORY

PREFIX = "mantaray_refs_"

METRICS = (
    Metric(
        "repeated_ref_removed",
        "repeated_ref_removed",
        "count",
        "Messages that a borrower let go, received after another notice about the same borrower.",
    ),
    Metric(
        "repeated_publisher_failed",
        "repeated_publisher_failed",
        "count",
        "Notices that a borrower died, received after another notice about the same borrower.",
    ),
    Metric(
        "merged_late",
        "merged_late_notices",
        "count",
        "Repeated notices whose further borrowers Ray has taken over.",
    ),
    Metric(
        "repeated_releases",
        "repeated_releases",
        "count",
        "Releases of an inner object by an outer one that had released it before.",
    ),
)


class NodeGuards:
    """Sums up the files of one node's processes. Sums never fall, because ended processes stay counted."""

    def __init__(self) -> None:
        self._files = NodeFiles(COUNTS)

    def figures(self, session_dir: str, node_id: str, proc: str = "/proc") -> list[Figure]:
        """Return the node's figures.

        Args:
            session_dir: Ray's directory of the session.
            node_id: the node, in hex. Several nodes may share the directory.
            proc: where the kernel shows processes.
        """
        _, sums = self._files.read(Path(session_dir, DIRECTORY), node_id, proc)
        return [metric.figure(PREFIX, sums[metric.told]) for metric in METRICS]


_GUARDS = NodeGuards()


def figures(session_dir: str, node_id: str) -> list[Figure]:
    """Return the figures of the node whose agent asks; see `NodeGuards.figures`."""
    return _GUARDS.figures(session_dir, node_id)
