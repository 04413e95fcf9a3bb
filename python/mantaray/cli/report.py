"""`mantaray report`: asks the nodes and relays of a cluster, and writes one HTML page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from mantaray.cli.cluster import ask_nodes
from mantaray.cli.output import VERSION, CliError
from mantaray.cli.relay import DEFAULT_ADMIN
from mantaray.report import names
from mantaray.report.model import Branch, Node, Origin, Relay
from mantaray.report.page import render
from mantaray.report.reading import ReadingError, query, sample
from mantaray.report.recording import Recording
from mantaray.states.cluster import NodeReport, differences
from mantaray.syncer import fetch_status
from mantaray.syncer.tree import TreeLine, relay_tree

_SAMPLED_S = 60.0
_QUERIED_S = 3_600.0


@click.command("report")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("mantaray-report.html"),
    show_default=True,
    help="The file to write.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="The cluster; by default that of RAY_ADDRESS or of this machine.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="How long to read the metrics of the nodes, 60 by default. With --prometheus: how far to look "
    "back, 3600 by default.",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two readings. Agents renew their figures every five seconds.",
)
@click.option(
    "--prometheus",
    metavar="URL",
    help="A Prometheus server that collects the metrics of the nodes; the report shows what it has.",
)
@click.option(
    "--relay",
    "admins",
    multiple=True,
    metavar="HOST:PORT",
    help=f"Admin address of a relay, may be repeated; {DEFAULT_ADMIN} by default.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the nodes to say which patches they have.",
)
def report_command(
    output: Path,
    address: str | None,
    seconds: float | None,
    every_s: float,
    prometheus: str | None,
    admins: tuple[str, ...],
    timeout_s: float,
) -> None:
    """Write one HTML page about a running cluster, which opens without a network.

    It shows the patches of each node, live data and disk space over time, how fast objects are spilled and
    restored, stalls by garbage collection, waits in Serve's routers, and the tree of relays.
    """
    nodes = nodes_of(ask_nodes(address, timeout_s))
    relays = [relay_at(admin) for admin in admins or (DEFAULT_ADMIN,)]
    asked = [relay.admin for relay in relays if relay.branches]
    wanted = (*names.OF_NODES, *names.OF_RELAYS)
    exporters = [*(node.exporter for node in nodes if node.exporter), *asked]
    if prometheus is None:
        seconds = seconds or _SAMPLED_S
        click.echo(f"reading the metrics of {len(nodes)} nodes for {seconds:g} s", err=True)
        began_s = time.time()
        recordings = sample(exporters, wanted, seconds, every_s)
        source = "the nodes"
    else:
        seconds = seconds or _QUERIED_S
        began_s = time.time() - seconds
        try:
            recordings, every_s = query(prometheus, exporters, wanted, seconds, every_s)
        except ReadingError as error:
            raise CliError(
                str(error), "give --prometheus http://HOST:PORT, or leave it out to ask the nodes"
            ) from error
        source = f"Prometheus at {prometheus}"
    cluster = address or next((node.address for node in nodes if node.is_head), "this machine")
    origin = Origin(cluster, source, began_s, time.time(), every_s, VERSION)
    of_nodes = _of(recordings, [node.exporter for node in nodes])
    page = render(origin, nodes, relays, of_nodes, _of(recordings, asked))
    try:
        output.write_text(page)
    except OSError as error:
        raise CliError(
            f"the report cannot be written: {error}", "give another file with -o"
        ) from error
    click.echo(f"{output} is written")


def nodes_of(reports: Sequence[NodeReport]) -> list[Node]:
    """Return the nodes of a survey as a report shows them."""
    differing = differences(reports)
    return [
        Node(
            node_id=report.node_id,
            address=report.address,
            is_head=report.is_head,
            exporter=_host_port(report.address, report.metrics_port) if report.metrics_port else "",
            releases={
                "Ray": report.ray,
                "Python": report.python,
                "Mantaray": report.mantaray or "none",
            }
            if report.answered
            else {},
            patches=report.patches,
            problem=report.problem,
            differences=differing.get(report.node_id, ()),
        )
        for report in reports
    ]


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def relay_at(admin: str) -> Relay:
    """Ask a relay for the tree below it.

    Args:
        admin: its admin address, HOST:PORT.
    """
    try:
        status = fetch_status(admin)
    except (OSError, ValueError) as error:
        return Relay(admin, problem=str(error))
    problem = None
    # A relay that no node uses needs no stream to its upstream, so a missing stream is no problem there.
    if not status.upstream_connected and (status.upstream_problem or status.downstream):
        problem = f"it is not connected to {status.upstream}"
        problem += f" ({status.upstream_problem})" if status.upstream_problem else ""
    return Relay(admin, [_branch(line) for line in relay_tree(status, admin)], problem)


def _branch(line: TreeLine) -> Branch:
    facts = [line.address, "1 node" if line.nodes == 1 else f"{line.nodes} nodes"]
    if line.connected_ms is not None:
        facts.append(f"connected for {line.connected_ms / 1000:.0f} s")
    facts.append(f"{line.behind_ms} ms behind" if line.behind_ms else "up to date")
    return Branch(line.depth, line.name, facts)


def _of(recordings: dict[str, Recording], exporters: Sequence[str]) -> dict[str, Recording]:
    return {where: recordings[where] for where in exporters if where in recordings}
