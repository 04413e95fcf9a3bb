"""Where the processor time of a GCS goes, and what of it relays take away: nodes with their workers.

Simulated raylets and their workers load the real GCS, directly and behind relays in turn. The
raylets are registered, publish their views once a second, and answer when the GCS asks for their load
or their health. Each has 16 workers, each with a subscription to the channel of nodes and a long poll.
Workers start (--starts-per-s a node), and each reads the cluster's id, the table of nodes and six keys,
as Ray 2.60's workers do, and asks whether its node is alive.

The arms: "relays" are four relays, "tree" four relays behind one that stands before the GCS. With
"/unshared" they pass each read on, with "/25ms" they have another window. The parts show where the time
goes: the same load with sync streams alone, with the raylets' answers, with long polls, and with reads.

python benchmarks/gcs_work.py [--nodes 200,400,800] [--starts-per-s 0.25] [--rays 2.60.0] [--rounds 3]
    [--parts] [--seconds 10] [--gcs SETTING=NUMBER] [--results FILE [--report-only]]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import sync_arms
from sync_arms import Arm, CpuMeter, Generator, RelayCommand, WorkerCalls

WORKERS = 16
# Calls of a starting worker, see worker_calls.cc.
READS = 9
# How many relays each level has, the one next to the GCS first.
ARMS: dict[str, list[int]] = {"direct": [], "relays": [4], "tree": [1, 4]}
DIRECT = "direct"
PARTS = ("sync", "raylets", "polls", "reads")
# The channel by which processes of a release learn of nodes.
CHANNELS = {"2.48.0": 5, "2.60.0": 9}
GOAL = 0.2
_FIGURES = (
    "gcs_cpu_s",
    "relay_cpu_s",
    "call_p50_ms",
    "call_p99_ms",
    "calls_failed",
    "staleness_p99_ms",
    "missing",
)


class Programs(NamedTuple):
    """What a run starts besides the GCS, built."""

    relay: Path
    generator: Path
    calls: Path
    answers: Path


class Cell(NamedTuple):
    """What runs have in common whose figures are the same but for chance."""

    ray: str
    nodes: int
    starts_per_s: float
    arm: str
    part: str


def run_once(
    cell: Cell, programs: Programs, seconds: float, config: dict[str, int]
) -> dict[str, Any]:
    """Start a fresh GCS (and relays), put the load on, return the figures.

    Args:
        cell: what to run.
        programs: with what.
        seconds: how long to measure.
        config: Ray's internal settings for the GCS.
    """
    has = {part: PARTS.index(part) <= PARTS.index(cell.part) for part in PARTS}
    shape, _, how = cell.arm.partition("/")
    arguments = []
    if how == "unshared":
        arguments = ["--shared-reads=none"]
    elif how:
        arguments = [f"--read-window-ms={how.removesuffix('ms')}"]
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        directory = enter(sync_arms.scratch())
        gcs_pid, gcs_port = enter(sync_arms.gcs_server(cell.ray, directory, config))
        command = RelayCommand(programs.relay, arguments)
        pids, ports = [], [gcs_port]
        # Of a tree, the one relay in front of the GCS; then those that nodes connect to.
        for count in ARMS[shape]:
            upstream = f"127.0.0.1:{ports[0]}"
            level = Arm(cell.arm, relays=count)
            more, ports = enter(
                sync_arms.relays(command, level, upstream, enter(sync_arms.scratch()))
            )
            pids += more
        raylet_port = enter(sync_arms.raylet_answers(programs.answers))
        processes = cell.nodes * (WORKERS if has["polls"] else 1)
        calls_per_s = cell.nodes * READS * cell.starts_per_s if has["reads"] else 0.001
        calls: WorkerCalls | None = None
        if has["raylets"]:
            calls = enter(
                WorkerCalls(
                    cell.ray,
                    programs.calls,
                    ports,
                    processes,
                    calls_per_s,
                    mix="start",
                    nodes=cell.nodes,
                    raylet_port=raylet_port,
                    channel=CHANNELS[cell.ray],
                )
            )
        storm = enter(
            Generator(
                programs.generator,
                ports,
                directory / "generator.log",
                dialect=sync_arms.DIALECTS[cell.ray],
                nodes=cell.nodes,
                seconds=seconds,
                bursts=0,
                settle_s=5,
                join_s=40,
            )
        )
        figures: dict[str, Any] = cell._asdict() | {"seconds": seconds}
        meter = CpuMeter({"gcs": [gcs_pid], "relay": pids})
        for told in storm.events():
            if told.get("event") == "measure_begin":
                meter.read()
                if calls is not None:
                    calls.forget()
            elif told.get("event") == "measure_end":
                figures |= meter.read()
                figures |= calls.figures() if calls is not None else {}
            elif "event" not in told:
                figures |= told
        return figures


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each figure of several runs of one cell."""
    names = [name for name in _FIGURES if name in runs[0]]
    return {name: statistics.median(run[name] for run in runs) for name in names}


def cell_of(run: dict[str, Any]) -> Cell:
    """Return the cell that a run belongs to."""
    return Cell(*(run[name] for name in Cell._fields))


def print_report(runs: list[dict[str, Any]]) -> bool:
    """Print the table of medians; return whether no figure misses the goal."""
    cells = {cell: medians(of) for cell, of in sync_arms.grouped(runs, cell_of).items()}
    counts = {cell: len(of) for cell, of in sync_arms.grouped(runs, cell_of).items()}
    heads = "".join(f"{name:>18}" for name in _FIGURES)
    print(f"{'cell':<42}{heads}{'GCS / direct':>14}{'runs':>6}")
    met = True
    for cell, figures in cells.items():
        shown = [f"{figures[name]:.2f}" if name in figures else "" for name in _FIGURES]
        row = "".join(f"{one:>18}" for one in shown)
        direct = cells.get(cell._replace(arm=DIRECT))
        ratio = figures["gcs_cpu_s"] / direct["gcs_cpu_s"] if direct else float("nan")
        met &= cell.arm not in ARMS or cell.arm == DIRECT or cell.part != PARTS[-1] or ratio <= GOAL
        print(f"{' '.join(map(str, cell)):<42}{row}{ratio:>14.2f}{counts[cell]:>6}")
    return met


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run everything that the options ask for, the arms in turn."""
    programs = Programs(
        options.relay_binary or sync_arms.build(sync_arms.RELAY),
        options.generator or sync_arms.build(sync_arms.GENERATOR),
        sync_arms.build(sync_arms.WORKER_CALLS),
        sync_arms.build(sync_arms.RAYLET_ANSWERS),
    )
    config = {name: int(value) for name, _, value in (one.partition("=") for one in options.gcs)}
    cells = [
        Cell(ray, int(nodes), options.starts_per_s, arm, part)
        for ray in options.rays.split(",")
        for nodes in options.nodes.split(",")
        for part in (PARTS if options.parts else PARTS[-1:])
        for arm in options.arms.split(",")
    ]
    runs = []
    for number, cell in sync_arms.interleaved(cells, options.rounds):
        run = run_once(cell, programs, options.seconds, config)
        said = ", ".join(f"{name} {run[name]}" for name in _FIGURES if name in run)
        print(f"round {number}, {' '.join(map(str, cell))}: {said}", file=sys.stderr)
        sync_arms.save_run(options.results, run)
        runs.append(run)
    return runs


def main() -> int:
    """Measure, print, and return 0 only if the goal is met everywhere."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", default="200,400,800")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--starts-per-s", type=float, default=0.25, help="workers of each node")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--gcs", nargs="*", default=[], metavar="SETTING=NUMBER")
    sync_arms.add_common_arguments(parser.add_argument, "direct,relays,tree,relays/unshared")
    parser.set_defaults(rays="2.60.0")
    options = parser.parse_args()
    runs = sync_arms.load_runs(options.results)
    if not options.report_only:
        runs += measure(options)
    return 0 if print_report(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
