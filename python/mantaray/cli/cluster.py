"""`mantaray doctor --cluster`: every node's releases and patch states, and where nodes differ.

`mantaray report` asks the nodes in the same way.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

from mantaray.cli.output import CliError, table
from mantaray.states.cluster import (
    ANSWER_TIMEOUT_S,
    ClusterError,
    NodeReport,
    differences,
    healthy,
    survey,
)

_ID_CHARS = 8


def show_cluster(
    address: str | None, as_json: bool, timeout_s: float | None = None
) -> tuple[str, bool]:
    """Ask all nodes; return what to print, and whether all is well.

    Args:
        address: of the cluster; None for the one of RAY_ADDRESS or of this machine.
        as_json: whether to print JSON.
        timeout_s: how long to wait for the answers, in seconds; None for the usual time.

    Raises:
        CliError: there is no cluster to ask.
    """
    reports = ask_nodes(address, timeout_s or ANSWER_TIMEOUT_S)
    text = _as_json(reports) if as_json else as_text(reports)
    return text, healthy(reports)


def ask_nodes(address: str | None, timeout_s: float) -> list[NodeReport]:
    """Ask all nodes of a cluster for their releases and patches.

    Args:
        address: of the cluster; None for the one of RAY_ADDRESS or of this machine.
        timeout_s: how long to wait for the answers, in seconds.

    Raises:
        CliError: there is no cluster to ask.
    """
    try:
        return survey(address, timeout_s)
    except ClusterError as error:
        raise CliError(
            str(error), "run this on a node of a running cluster, or give --address HOST:PORT"
        ) from error


def _as_json(reports: list[NodeReport]) -> str:
    differing = differences(reports)
    nodes = []
    for report in reports:
        patches = {n: {"state": s, "why": why} for n, (s, why) in report.patches.items()}
        own = dataclasses.asdict(report) | {"patches": patches}
        nodes.append(own | {"differs": differing.get(report.node_id, [])})
    return json.dumps({"healthy": healthy(reports), "nodes": nodes}, indent=2)


def as_text(reports: list[NodeReport]) -> str:
    """Return a table of the nodes, and below it a line for each thing that needs a look."""
    differing = differences(reports)
    header = ("node", "address", "role", "Ray", "Mantaray", "Python", "patches", "")
    rows = []
    remarks = []
    for report in reports:
        short = report.node_id[:_ID_CHARS]
        is_odd = report.node_id in differing or not report.answered
        rows.append(
            (
                short,
                report.address,
                "head" if report.is_head else "worker",
                report.ray or "?",
                (report.mantaray or "none") if report.answered else "?",
                report.python or "?",
                _summary(report),
                "DIFFERS" if is_odd else "",
            )
        )
        remarks += [f"{short}  {words}" for words in differing.get(report.node_id, [])]
        if report.problem is not None:
            remarks.append(f"{short}  {report.problem}")
        for name, (state, why) in sorted(report.patches.items()):
            if state in ("refused", "off") and why != report.problem:
                remarks.append(f"{short}  {name} {state}: {why}")
    return "\n\n".join(filter(None, [table(header, rows), "\n".join(remarks)]))


def _summary(report: NodeReport) -> str:
    if not report.answered:
        return "no answer"
    counts = Counter(state for state, _ in report.patches.values())
    parts = [f"{count} {state}" for state, count in sorted(counts.items())]
    return ", ".join(parts) or "no patches"
