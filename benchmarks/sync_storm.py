"""Resource-view sync under load: the real GCS of both Rays, direct and behind relays, in turn.

Simulated raylets publish their views at a steady rate and then all at once. "Staleness" is the time
from the publication of a view until another node holds it or a newer one, over all pairs of nodes;
one that never arrives counts until the measurement gives up. "Burst" is the time until everybody
holds everybody's newest view. CPU is that of the GCS, of all relays together and of the generator,
while the steady load is measured. What the generator costs is not subtracted from anything; it has
two ways to carry the nodes' streams: "light" speaks HTTP/2 by hand and leaves the machine to what is
measured, "grpc" uses the gRPC library, as raylets do, all of them on this one machine.

Each node has processes besides (--workers), as many as a real one has workers, agents and drivers. Each
process has a connection with a long poll to the GCS, or to the relay of its node, and all of them make
look-ups, one a second for each node. How long those take is measured, too.

With --material-every=10 nine views of ten move only object-store bytes and idle time, as most do on
large clusters: what arms that end in "-hush" hold back. Staleness is then that of the tenth.

python benchmarks/sync_storm.py [--nodes 50,100,200,400,800] [--hz 1] [--arms direct,relays-4]
    [--client light|grpc] [--workers N] [--material-every N] [--relay-binary PATH] [--rounds N]
    [--results FILE [--report-only]] [--plot FILE.png] [--json | --markdown]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import results
import sync_arms
from sync_arms import Arm, CpuMeter, Generator, RelayCommand

NODES = "50,100,200,400,800"
CLIENTS = ("light", "grpc")
TARGET_RAY = "2.60.0"
TARGET_RELAYS = "relays-4"
JOIN_S = 40.0
RELAY_MEMORY_MB = 150.0
# Processes of a simulated node that have a long poll.
WORKERS = 4
# With these arms there is something to compare the relays with.
STOCK = "direct"
# How long the generator waits for views and for a burst, if not told otherwise. A view that has not
# arrived by then counts with the time that it has waited, so a figure above the first is a lower bound
# if views are missing.
SETTLE_S = 15.0
BURST_S = 30.0
_FIGURES = (
    ("p50 ms", "staleness_p50_ms", 8),
    ("p99 ms", "staleness_p99_ms", 9),
    ("GCS CPU s", "gcs_cpu_s", 11),
    ("relays CPU s", "relay_cpu_s", 14),
    ("gen. CPU s", "generator_cpu_s", 12),
    ("join s", "join_s", 8),
    ("burst ms", "burst_median_ms", 10),
    ("k msg/s", "k_messages_s", 9),
    ("MB/s", "mb_s", 7),
    ("relay MB", "relay_rss_mb", 10),
    ("call p50", "call_p50_ms", 10),
    ("call p99", "call_p99_ms", 10),
)


@dataclass(frozen=True)
class Load:
    """What the simulated raylets do.

    Attributes:
        nodes: how many there are.
        hz: views a second that each publishes.
        seconds: how long the steady load is measured.
        bursts: how many follow.
        settle_s: how long to wait for everybody to be up to date after the steady load.
        client: what carries the nodes' streams, "light" or "grpc".
        material_every: of so many views of a node, one is more than noise.
        workers: processes of each node that have a long poll; 0: no calls besides the sync streams.
    """

    nodes: int
    hz: float
    seconds: float
    bursts: int
    settle_s: float
    client: str
    material_every: int
    workers: int = 0


def run_once(
    ray: str,
    arm: Arm,
    load: Load,
    relay: RelayCommand,
    generator: Path,
    worker_calls: Path | None = None,
) -> dict[str, Any]:
    """Start a fresh GCS (and relays), put the load on, return the figures.

    Args:
        ray: the release whose GCS is measured.
        arm: what stands before it.
        load: what the simulated nodes do.
        relay: how a relay is started.
        generator: the built load generator.
        worker_calls: the built program of the nodes' processes; needed if the load has any.
    """
    with (
        sync_arms.scratch() as directory,
        sync_arms.gcs_server(ray, directory, arm.config) as (gcs_pid, gcs_port),
        sync_arms.relays(relay, arm, f"127.0.0.1:{gcs_port}", directory) as (pids, ports),
        sync_arms.WorkerCalls(
            ray, worker_calls, ports or [gcs_port], load.nodes * load.workers, load.nodes
        ) as calls,
        Generator(
            generator,
            ports or [gcs_port],
            directory / "generator.log",
            dialect=sync_arms.DIALECTS[ray],
            client=load.client,
            material_every=load.material_every,
            nodes=load.nodes,
            hz=load.hz,
            seconds=load.seconds,
            bursts=load.bursts,
            settle_s=load.settle_s,
            join_s=JOIN_S,
        ) as storm,
    ):
        figures: dict[str, Any] = {}
        meter = CpuMeter({"gcs": [gcs_pid], "relay": pids})
        for told in storm.events():
            if told.get("event") == "measure_begin":
                meter.read()
            elif told.get("event") == "measure_end":
                figures |= meter.read()
            elif "event" not in told:
                figures |= told
        figures |= calls.figures()
        figures["gcs_rss_mb"] = round(sync_arms.peak_rss_mb(gcs_pid), 1)
        figures["relay_rss_mb"] = round(max(map(sync_arms.peak_rss_mb, pids), default=0.0), 1)
    told = {"client": load.client, "workers": load.workers, "ray": ray, "arm": arm.name}
    return told | figures


class Cell(NamedTuple):
    """What runs have in common whose figures are the same but for chance."""

    client: str
    hz: float
    material_every: int
    workers: int
    nodes: int
    ray: str
    arm: str


Cells = dict[Cell, dict[str, Any]]


def cell_of(run: dict[str, Any]) -> Cell:
    """Return the cell that a run belongs to."""
    # Earlier runs had one view as material as the other, and no processes besides the raylets.
    earlier = {"material_every": 1, "workers": 0}
    return Cell(*((earlier | run)[name] for name in Cell._fields))


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure of several runs of one cell.

    A burst or a join that did not converge counts as endless.
    """
    bursts = [each if each >= 0 else float("inf") for run in runs for each in run["burst_ms"]]
    joins = [run["join_ms"] / 1e3 if run["join_ms"] >= 0 else float("inf") for run in runs]
    plain = (
        "staleness_p50_ms",
        "staleness_p99_ms",
        "gcs_cpu_s",
        "relay_cpu_s",
        "generator_cpu_s",
        "machine_cpu_s",
        "lateness_p99_ms",
        "relay_rss_mb",
        "gcs_rss_mb",
        "missing",
        "measured",
        "lost_at_join",
    )
    noise = statistics.median(run.get("noise_p99_ms", 0) for run in runs)
    figures = {name: statistics.median(run[name] for run in runs) for name in plain}
    seconds = runs[0]["seconds"] or 1
    calls = {
        name: statistics.median(run[name] for run in runs) if name in runs[0] else None
        for name in ("call_p50_ms", "call_p99_ms")
    }
    figures |= calls
    return figures | {
        "runs": len(runs),
        "seconds": runs[0]["seconds"],
        "noise_p99_ms": noise,
        "join_s": statistics.median(joins),
        "burst_median_ms": statistics.median(bursts) if bursts else None,
        "k_messages_s": statistics.median(run["messages"] / seconds / 1e3 for run in runs),
        "mb_s": statistics.median(run["bytes"] / seconds / 1e6 for run in runs),
        "worst_relay_rss_mb": max(run["relay_rss_mb"] for run in runs),
        "damaged": sum(run["damaged"] + run["own"] for run in runs),
    }


def summarise(runs: Sequence[dict[str, Any]]) -> Cells:
    """Return the medians of every cell."""
    cells = sync_arms.grouped(runs, cell_of)
    return {cell: medians(members) for cell, members in cells.items()}


def check_targets(cells: Cells, client: str) -> list[dict[str, Any]]:
    """Return each target that the runs with a client can decide: its figure and whether it is met."""
    checks: list[dict[str, Any]] = []

    def cell(nodes: int, arm: str) -> dict[str, Any] | None:
        # What counts is the load with calls, where it was measured.
        of_arm = [Cell(client, 1, 1, workers, nodes, TARGET_RAY, arm) for workers in (WORKERS, 0)]
        return next((cells[one] for one in of_arm if one in cells), None)

    def check(what: str, figure: float, limit: float, unit: str) -> None:
        row = {"client": client, "target": what, "figure": round(figure, 3), "limit": limit}
        checks.append(row | {"unit": unit, "met": figure <= limit})

    if ours := cell(400, TARGET_RELAYS):
        check("400 nodes, 4 relays: p99 staleness", ours["staleness_p99_ms"], 150, "ms")
        if stock := cell(400, STOCK):
            ratio = ours["gcs_cpu_s"] / stock["gcs_cpu_s"]
            check("400 nodes, 4 relays: GCS CPU over stock", ratio, 0.25, "")
    ours, stock = cell(800, TARGET_RELAYS), cell(800, STOCK)
    if ours and stock:
        ratio = ours["staleness_p99_ms"] / stock["staleness_p99_ms"]
        check("800 nodes, 4 relays: p99 staleness over stock", ratio, 0.1, "")
        if ours["burst_median_ms"] and stock["burst_median_ms"]:
            ratio = ours["burst_median_ms"] / stock["burst_median_ms"]
            check("800 nodes, 4 relays: burst over stock", ratio, 1 / 3, "")
    if one := cell(800, "relays-1"):
        memory = one["worst_relay_rss_mb"]
        check("a relay with 800 nodes: memory", memory, RELAY_MEMORY_MB, "MB")
    return checks


def show(value: float | None) -> str:
    """Return a figure with about three digits, as a cell of the table."""
    if value is None:
        return "-"
    if value == float("inf"):
        return f"> {BURST_S * 1e3:,.0f}"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_report(cells: Cells) -> None:
    """Print the table of medians, and what became of the targets."""
    for load in loads(cells):
        print(f"\n{title(*load)}")
        heads = "".join(f"{head:>{width}}" for head, _, width in _FIGURES)
        print(f"{'nodes':>5} {'Ray':<7}{'arm':<14}{heads}{'p99 / stock':>12}{'CPU / stock':>12}")
        for cell, figures in cells.items():
            if cell[:4] == load:
                row = "".join(f"{show(figures[name]):>{width}}" for _, name, width in _FIGURES)
                stock = cells.get(cell._replace(arm=STOCK)) if cell.arm != STOCK else None
                print(f"{cell.nodes:>5} {cell.ray:<7}{cell.arm:<14}{row}{_ratios(figures, stock)}")
    for check in all_targets(cells):
        verdict = "met" if check["met"] else "MISSED"
        print(f"{verdict:<7} {_target(check)}: {check['figure']:.3g}")


def loads(cells: Cells) -> list[tuple[str, float, int, int]]:
    """Return the loads there are.

    Each is the client, views a second, of how many views one is no noise, and processes of a node.
    """
    return sorted(
        {cell[:4] for cell in cells},
        key=lambda load: (load[2], load[1], load[0] == "grpc", load[3]),
    )


def title(client: str, hz: float, material_every: int, workers: int) -> str:
    """Return what to call a load."""
    calls = f", {workers} processes of each node" if workers else ""
    noise = f", {material_every - 1} of {material_every} are noise" if material_every > 1 else ""
    return f"{hz:g} view(s) a second from every node{noise}{calls}, {client} client"


def _target(check: dict[str, Any]) -> str:
    limit = f"{check['limit']:.3g} {check['unit']}".strip()
    return f"{check['target']}, at most {limit} ({check['client']} client)"


def tables(cells: Cells) -> dict[str, results.Table]:
    """Return the tables as the documentation has them; CPU is that of 10 s."""
    verdicts = [
        (_target(check), f"{check['figure']:.3g} {check['unit']}".strip(), _verdict(check))
        for check in all_targets(cells)
    ]
    found: dict[str, results.Table] = {"targets": (("target", "seen", ""), verdicts)}
    heads = ["p50 ms", "p99 ms", "GCS CPU s", "relays CPU s", "generator CPU s", "burst ms"]
    for load in loads(cells):
        noisy = load[2] > 1
        columns = ["nodes", "Ray", "arm", *heads]
        columns += ["noise p99 ms", "k msg/s", "MB/s"] if noisy else []
        columns += ["call p50 ms", "call p99 ms"] if load[3] else []
        columns.append("runs")
        rows = [
            [
                str(cell.nodes),
                cell.ray,
                cell.arm,
                *_shown(cell, figures, noisy),
                str(figures["runs"]),
            ]
            for cell, figures in cells.items()
            if cell[:4] == load
        ]
        found[key_of(*load)] = (columns, rows)
    return found


def print_markdown(cells: Cells) -> None:
    """Print the tables in Markdown."""
    for name, (head, rows) in tables(cells).items():
        print(f"\n{name}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")


def key_of(client: str, hz: float, material_every: int, workers: int) -> str:
    """Return by which key pages refer to the table of a load."""
    noise = "-noise" if material_every > 1 else ""
    return f"{client}-{hz:g}hz{noise}" + (f"-workers-{workers}" if workers else "")


def _verdict(check: dict[str, Any]) -> str:
    return "met" if check["met"] else "**missed**"


def bounded(figures: dict[str, Any], name: str) -> str:
    """Return a staleness, as a lower bound where views that never arrived may belong below it."""
    undelivered = figures["missing"] / figures["measured"] if figures["measured"] else 0.0
    text = show(figures[name])
    if not undelivered or figures[name] < SETTLE_S * 1e3:
        return text
    return f"> {text} ({undelivered:.0%} undelivered)".replace("100%", "over 99%").replace(
        "%", " %"
    )


def _shown(cell: Cell, figures: dict[str, Any], noisy: bool) -> list[str]:
    per_10_s = 10 / (figures["seconds"] or 10)
    p99 = bounded(figures, "staleness_p99_ms")
    shown = [
        bounded(figures, "staleness_p50_ms"),
        f"**{p99}**" if cell.arm == TARGET_RELAYS else p99,
    ]
    shown.append(show(figures["gcs_cpu_s"] * per_10_s))
    has_relays = cell.arm.startswith("relays")
    shown.append(show(figures["relay_cpu_s"] * per_10_s) if has_relays else "")
    shown.append(show(figures["generator_cpu_s"] * per_10_s))
    shown.append(show(figures["burst_median_ms"]))
    more: tuple[str, ...] = ("noise_p99_ms", "k_messages_s", "mb_s") if noisy else ()
    more += ("call_p50_ms", "call_p99_ms") if cell.workers else ()
    return shown + [show(figures[name]) for name in more]


def all_targets(cells: Cells) -> list[dict[str, Any]]:
    """Return the targets with each client."""
    return [check for client in CLIENTS for check in check_targets(cells, client)]


def _ratios(figures: dict[str, Any], stock: dict[str, Any] | None) -> str:
    if stock is None:
        return ""
    names = ("staleness_p99_ms", "gcs_cpu_s")
    ratios = [figures[name] / stock[name] if stock[name] else float("nan") for name in names]
    return "".join(f"{ratio:>12.3f}" for ratio in ratios)


def labels_of(counts: Sequence[int]) -> list[str]:
    """Return a label for each number of nodes; between the first and the last, only where there is room."""
    labels = [str(counts[0])]
    shown, last = counts[0], counts[-1]
    for count in counts[1:-1]:
        has_room = count >= 1.4 * shown and last >= 1.4 * count
        labels.append(str(count) if has_room else "")
        shown = count if has_room else shown
    return [*labels, str(last)] if len(counts) > 1 else labels


def plot(cells: Cells, hz: float, client: str, path: Path) -> None:
    """Draw the p99 staleness of the newest Ray over the number of nodes (needs matplotlib).

    A figure that was cut off is an arrow, and each line is named at its end.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    of_ray = {cell: each for cell, each in cells.items() if cell.ray == TARGET_RAY}
    shown = {cell: each for cell, each in of_ray.items() if cell[:4] == (client, hz, 1, 0)}
    counts = sorted({cell.nodes for cell in shown})
    names = {STOCK: ("stock Ray", "tab:red"), TARGET_RELAYS: ("behind 4 relays", "tab:blue")}
    figure, axis = pyplot.subplots(figsize=(7.5, 4.5), constrained_layout=True)
    for arm, (name, colour) in names.items():
        line = [(cell.nodes, each) for cell, each in shown.items() if cell.arm == arm]
        values = [each["staleness_p99_ms"] for _, each in line]
        axis.plot([nodes for nodes, _ in line], values, "-o", color=colour, linewidth=2.5)
        for nodes, each in line:
            if bounded(each, "staleness_p99_ms").startswith(">"):
                at = (nodes, each["staleness_p99_ms"])
                lost = each["missing"] / each["measured"]
                words = f"longer: {lost:.0%} undelivered"
                axis.annotate(
                    words,
                    at,
                    (nodes, at[1] * 3),
                    ha="center",
                    arrowprops={"arrowstyle": "<|-", "color": colour},
                    color=colour,
                    fontsize=11,
                )
        last = (line[-1][0], values[-1])
        axis.annotate(name, last, (8, -4), textcoords="offset points", color=colour, fontsize=13)
    axis.set_title("How old the views of other nodes are, p99", loc="left", fontsize=14)
    axis.set(xlabel="nodes, log scale", xscale="log", yscale="log", ylabel="ms, log scale")
    axis.set_xlim(counts[0] * 0.9, counts[-1] * 3.5)
    axis.set_ylim(top=150_000)
    axis.set_xticks(counts, labels_of(counts))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    figure.savefig(path, dpi=110)


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", default=NODES)
    parser.add_argument("--hz", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle-s", type=float, default=SETTLE_S)
    parser.add_argument("--bursts", type=int, default=3)
    parser.add_argument("--client", choices=CLIENTS, default="light")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes of each node")
    parser.add_argument("--material-every", type=int, default=1, metavar="N")
    parser.add_argument(
        "--worker-calls", type=Path, help="the program that is the processes, built"
    )
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    sync_arms.add_common_arguments(parser.add_argument, "direct,relays-4")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run everything that the options ask for, stock and relays in turn."""
    generator = options.generator or sync_arms.build(sync_arms.GENERATOR)
    relay = sync_arms.relay_command(options)
    calls = options.worker_calls
    if calls is None and options.workers:
        calls = sync_arms.build(sync_arms.WORKER_CALLS)
    loads = [
        Load(
            nodes=int(nodes),
            hz=options.hz,
            seconds=options.seconds,
            bursts=options.bursts,
            settle_s=options.settle_s,
            client=options.client,
            material_every=options.material_every,
            workers=options.workers,
        )
        for nodes in options.nodes.split(",")
    ]
    cells = [
        (load, ray, arm)
        for load in loads
        for ray in options.rays.split(",")
        for arm in sync_arms.chosen_arms(options)
        if sync_arms.runs_on(arm, ray)
    ]
    runs = []
    for number, (load, ray, arm) in sync_arms.interleaved(cells, options.rounds):
        label = f"round {number}, {load.nodes} nodes ({load.client}), Ray {ray}, {arm.name}"
        run = run_once(ray, arm, load, relay, generator, calls)
        said = ", ".join(f"{head} {show(medians([run])[name])}" for head, name, _ in _FIGURES)
        print(f"{label}: {said}", file=sys.stderr)
        sync_arms.save_run(options.results, run)
        runs.append(run)
    return runs


def main() -> int:
    """Measure, print, and return 0 only if every target that could be decided is met."""
    options = parse_options()
    runs = sync_arms.load_runs(options.results)
    if not options.report_only:
        runs += measure(options)
    cells = summarise(runs)
    checks = all_targets(cells)
    if options.json:
        rows = [cell._asdict() | figures for cell, figures in cells.items()]
        print(json.dumps({"cells": rows, "targets": checks, "met": all(c["met"] for c in checks)}))
    elif options.markdown:
        print_markdown(cells)
    else:
        print_report(cells)
    if options.plot:
        plot(cells, options.hz, options.client, options.plot)
    return 0 if all(check["met"] for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
