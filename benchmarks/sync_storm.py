"""Resource-view sync under load: the real GCS of both Rays, direct and behind relays, in turn.

Simulated raylets publish their views at a steady rate and then all at once. "Staleness" is the time
from the publication of a view until another node holds it or a newer one, over all pairs of nodes;
one that never arrives counts until the measurement gives up. "Burst" is the time until everybody
holds everybody's newest view. CPU is that of the GCS, of all relays together and of the generator,
while the steady load is measured. What the generator costs is not subtracted from anything.

python benchmarks/sync_storm.py [--nodes 50,100,200,400,800] [--hz 1] [--arms direct,relays-4]
    [--relay-binary PATH] [--rounds N] [--results FILE [--report-only]] [--plot FILE.png] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sync_arms
from sync_arms import Arm, CpuMeter, Generator, RelayCommand

NODES = "50,100,200,400,800"
TARGET_RAY = "2.60.0"
TARGET_RELAYS = "relays-4"
RELAY_MEMORY_MB = 150.0
# With these arms there is something to compare the relays with.
STOCK = "direct"
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
    """

    nodes: int
    hz: float
    seconds: float
    bursts: int
    settle_s: float


def run_once(
    ray: str, arm: Arm, load: Load, relay: RelayCommand | None, generator: Path
) -> dict[str, Any]:
    """Start a fresh GCS (and relays), put the load on, return the figures."""
    with (
        sync_arms.scratch() as directory,
        sync_arms.gcs_server(ray, directory, arm.config) as (gcs_pid, gcs_port),
        sync_arms.relays(relay, arm.relays, f"127.0.0.1:{gcs_port}", directory) as (pids, ports),
        Generator(
            generator,
            ports or [gcs_port],
            directory / "generator.log",
            dialect=sync_arms.DIALECTS[ray],
            nodes=load.nodes,
            hz=load.hz,
            seconds=load.seconds,
            bursts=load.bursts,
            settle_s=load.settle_s,
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
        figures["gcs_rss_mb"] = round(sync_arms.peak_rss_mb(gcs_pid), 1)
        figures["relay_rss_mb"] = round(max(map(sync_arms.peak_rss_mb, pids), default=0.0), 1)
    return {"ray": ray, "arm": arm.name, **figures}


def cell_of(run: dict[str, Any]) -> tuple[float, int, str, str]:
    """Return what the runs with the same figures have in common."""
    return run["hz"], run["nodes"], run["ray"], run["arm"]


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
    )
    figures = {name: statistics.median(run[name] for run in runs) for name in plain}
    seconds = runs[0]["seconds"] or 1
    return figures | {
        "runs": len(runs),
        "seconds": runs[0]["seconds"],
        "join_s": statistics.median(joins),
        "burst_median_ms": statistics.median(bursts) if bursts else None,
        "k_messages_s": statistics.median(run["messages"] / seconds / 1e3 for run in runs),
        "mb_s": statistics.median(run["bytes"] / seconds / 1e6 for run in runs),
        "worst_relay_rss_mb": max(run["relay_rss_mb"] for run in runs),
        "damaged": sum(run["damaged"] + run["own"] for run in runs),
    }


def summarise(runs: Sequence[dict[str, Any]]) -> dict[tuple[float, int, str, str], dict[str, Any]]:
    """Return the medians of every cell."""
    cells = sync_arms.grouped(runs, cell_of)
    return {cell: medians(members) for cell, members in cells.items()}


def check_targets(cells: dict[tuple[float, int, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each target that the runs can decide: what it says, the figure, whether it is met."""
    checks: list[dict[str, Any]] = []

    def check(what: str, figure: float, limit: float, unit: str) -> None:
        row = {"target": what, "figure": round(figure, 3), "limit": limit, "unit": unit}
        checks.append(row | {"met": figure <= limit})

    for nodes in (400, 800):
        stock = cells.get((1, nodes, TARGET_RAY, STOCK))
        ours = cells.get((1, nodes, TARGET_RAY, TARGET_RELAYS))
        if ours is None:
            continue
        if nodes == 400:
            check("400 nodes, 4 relays: p99 staleness", ours["staleness_p99_ms"], 150, "ms")
        if stock is not None and nodes == 400:
            ratio = ours["gcs_cpu_s"] / stock["gcs_cpu_s"]
            check("400 nodes, 4 relays: GCS CPU over stock", ratio, 0.25, "")
        if stock is not None and nodes == 800:
            ratio = ours["staleness_p99_ms"] / stock["staleness_p99_ms"]
            check("800 nodes, 4 relays: p99 staleness over stock", ratio, 0.1, "")
            if ours["burst_median_ms"] is not None and stock["burst_median_ms"] is not None:
                ratio = ours["burst_median_ms"] / stock["burst_median_ms"]
                check("800 nodes, 4 relays: burst over stock", ratio, 1 / 3, "")
    one = cells.get((1, 800, TARGET_RAY, "relays-1"))
    if one is not None:
        memory = one["worst_relay_rss_mb"]
        check("a relay with 800 nodes: memory", memory, RELAY_MEMORY_MB, "MB")
    return checks


def show(value: float | None) -> str:
    """Return a figure with about three digits, as a cell of the table."""
    if value is None:
        return "-"
    if value == float("inf"):
        return "never"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_report(cells: dict[tuple[float, int, str, str], dict[str, Any]]) -> None:
    """Print the table of medians, and what became of the targets."""
    for hz in sorted({cell[0] for cell in cells}):
        print(f"\n{hz:g} views a second from every node")
        heads = "".join(f"{head:>{width}}" for head, _, width in _FIGURES)
        print(f"{'nodes':>5} {'Ray':<7}{'arm':<11}{heads}{'p99 / stock':>12}{'CPU / stock':>12}")
        for (each, nodes, ray, arm), figures in cells.items():
            if each != hz:
                continue
            row = "".join(f"{show(figures[name]):>{width}}" for _, name, width in _FIGURES)
            print(f"{nodes:>5} {ray:<7}{arm:<11}{row}{_ratios(cells, (hz, nodes, ray, arm))}")
    for check in check_targets(cells):
        verdict = "met" if check["met"] else "MISSED"
        limit = f"{check['limit']:.3g} {check['unit']}".strip()
        print(f"{verdict:<7} {check['target']}: {check['figure']:.3g}, at most {limit}")


def _ratios(
    cells: dict[tuple[float, int, str, str], dict[str, Any]], cell: tuple[float, int, str, str]
) -> str:
    stock = cells.get((*cell[:3], STOCK))
    if stock is None or cell[3] == STOCK:
        return ""
    ratios = [
        cells[cell][name] / stock[name] if stock[name] else float("nan")
        for name in ("staleness_p99_ms", "gcs_cpu_s")
    ]
    return "".join(f"{ratio:>12.3f}" for ratio in ratios)


def plot(cells: dict[tuple[float, int, str, str], dict[str, Any]], hz: float, path: Path) -> None:
    """Draw staleness, CPU of the GCS and bursts over the number of nodes (needs matplotlib)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (
        ("p99 staleness, ms", "staleness_p99_ms", 1.0, True),
        ("CPU of the GCS, cores", "gcs_cpu_s", None, False),
        ("burst: all up to date after, ms", "burst_median_ms", 1.0, True),
    )
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 4.2), constrained_layout=True)
    for axis, (title, name, scale, logarithmic) in zip(axes, panels, strict=True):
        for ray, arm in sorted({cell[2:] for cell in cells if cell[0] == hz}):
            points = [
                (cell[1], figures[name] / (scale or figures["seconds"]))
                for cell, figures in cells.items()
                if (cell[0], *cell[2:]) == (hz, ray, arm) and figures[name] is not None
            ]
            points = [point for point in points if point[1] != float("inf")]
            style = "--" if ray == "2.48.0" else "-"
            marker = "o" if arm == STOCK else "s"
            colour = {"direct": "tab:red", "batching": "tab:orange"}.get(arm)
            colour = colour or {"relays-1": "tab:cyan", "relays-4": "tab:blue"}.get(
                arm, "tab:green"
            )
            axis.plot(*zip(*points, strict=True), style, marker=marker, color=colour,
                      label=f"{ray} {arm}")  # fmt: skip
        axis.set(title=title, xlabel=f"nodes, {hz:g} view(s) a second each", xscale="log")
        axis.set_yscale("log" if logarithmic else "linear")
        counts = sorted({cell[1] for cell in cells if cell[0] == hz})
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", default=NODES)
    parser.add_argument("--hz", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle-s", type=float, default=15.0)
    parser.add_argument("--bursts", type=int, default=3)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    sync_arms.add_common_arguments(parser.add_argument, "direct,relays-4")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run everything that the options ask for, stock and relays in turn."""
    generator = options.generator or sync_arms.build_generator()
    relay = sync_arms.relay_command(options)
    cells = [
        (Load(int(nodes), options.hz, options.seconds, options.bursts, options.settle_s), ray, arm)
        for nodes in options.nodes.split(",")
        for ray in options.rays.split(",")
        for arm in sync_arms.chosen_arms(options)
        if sync_arms.runs_on(arm, ray)
    ]
    runs = []
    for number, (load, ray, arm) in sync_arms.interleaved(cells, options.rounds):
        label = f"round {number}, {load.nodes} nodes, Ray {ray}, {arm.name}"
        run = run_once(ray, arm, load, relay, generator)
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
    checks = check_targets(cells)
    if options.json:
        rows = [
            {"hz": hz, "nodes": nodes, "ray": ray, "arm": arm, **figures}
            for (hz, nodes, ray, arm), figures in cells.items()
        ]
        print(json.dumps({"cells": rows, "targets": checks, "met": all(c["met"] for c in checks)}))
    else:
        print_report(cells)
    if options.plot:
        plot(cells, options.hz, options.plot)
    return 0 if all(check["met"] for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
