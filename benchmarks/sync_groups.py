"""Placement groups on real raylets while simulated nodes publish: direct and behind relays, both Rays.

A real cluster (a head and three more raylets) and 400 simulated nodes that publish a view a second
each. In the arms with relays all nodes but the head come through relays, real and simulated ones.
Ready latency is from the creation of a group until its creator knows it is ready. "quiet" is the
same cluster before the simulated nodes come.

There is plenty of what groups want, unless --slots makes it scarce (2: for three groups, of four that
are wanted at any time). Then each group waits until the GCS has heard from raylets what is free again,
which is what a busy GCS is late to hear. With --registered the simulated nodes are registered too, so
that the GCS looks through them for every group.

python benchmarks/sync_groups.py [--nodes 400] [--hz 1] [--slots 2] [--registered]
    [--arms direct,relays-4] [--relay-binary PATH] [--rounds N]
    [--results FILE [--report-only]] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import results
import sync_arms
from sync_arms import Arm, CpuMeter, Generator, RelayCommand

sys.path.insert(0, str(sync_arms.REPOSITORY))

from tests.support.cluster import Cluster
from tests.support.rays import find_ray

WORKLOAD = Path(__file__).with_name("sync_groups_workload.py")
FURTHER_NODES = 3
REGISTER = Path(__file__).with_name("sync_groups_register.py")
# Of each raylet: more than enough.
SLOTS = 10_000
# Nobody answers for registered nodes that are not there.
NO_HEALTH_CHECKS = {"health_check_initial_delay_ms": 3_600_000}
THREADS, BUNDLES = 4, 2
QUIET_S = 5.0
# Longer than any workload takes; the load is ended when that has.
LOAD_S = 100_000


class JoinedThrough(Cluster):
    """A cluster whose further nodes join through one of several ports: of the GCS or of relays."""

    join_port: int | None = None

    @property
    def address(self) -> str:
        """Where nodes join; drivers too, until `join_port` is None again."""
        return f"127.0.0.2:{self.join_port or self.port}"


def run_once(
    ray: str,
    arm: Arm,
    options: argparse.Namespace,
    relay: RelayCommand,
    generator: Path,
) -> dict[str, Any]:
    """Start a cluster (and relays), run the workload without and with load, return the figures."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(sync_arms.scratch())
        config = dict(arm.config) | (NO_HEALTH_CHECKS if options.registered else {})
        cluster = JoinedThrough(find_ray(ray), num_cpus=1, system_config=config)
        stack.enter_context(cluster)
        upstream = f"127.0.0.2:{cluster.port}"
        pids, ports = stack.enter_context(sync_arms.relays(relay, arm, upstream, directory))
        for number in range(FURTHER_NODES):
            cluster.join_port = ports[number % len(ports)] if ports else None
            cluster.add_node(resources={"slot": options.slots})
        cluster.join_port = None
        meter = CpuMeter({"gcs": cluster.pids("gcs"), "relay": pids})
        if options.registered:
            cluster.run_program(REGISTER, [upstream, str(options.nodes)])
        quiet = workload(cluster, QUIET_S, meter)
        storm = stack.enter_context(
            Generator(
                generator,
                ports or [cluster.port],
                directory / "generator.log",
                dialect=sync_arms.DIALECTS[ray],
                nodes=options.nodes,
                hz=options.hz,
                seconds=LOAD_S,
            )
        )
        storm.wait_for("measure_begin")
        loaded = workload(cluster, options.seconds, meter)
    return {
        "ray": ray,
        "arm": arm.name,
        "nodes": options.nodes,
        "hz": options.hz,
        "slots": options.slots,
        "registered": options.registered,
        "quiet": quiet,
        "loaded": loaded,
    }


def workload(cluster: Cluster, seconds: float, meter: CpuMeter) -> dict[str, Any]:
    """Run the workload as a driver of the cluster; return its figures and CPU by process."""
    meter.read()
    gcs = cluster.pids("gcs")[0]
    before = sync_arms.thread_cpu_s(gcs)
    arguments = [str(seconds), str(THREADS), str(BUNDLES)]
    said = cluster.run_program(WORKLOAD, arguments)
    after = sync_arms.thread_cpu_s(gcs)
    latencies_ms = sorted(said["latencies_ms"])
    if not latencies_ms:
        latencies_ms = [float("inf")]
    return {
        "p50_ms": round(statistics.median(latencies_ms), 2),
        "p99_ms": round(latencies_ms[max(0, -(-len(latencies_ms) * 99 // 100) - 1)], 2),
        "groups_s": round(len(said["latencies_ms"]) / said["seconds"], 1),
        "failed": said["failed"],
        **meter.read(),
        **{
            f"thread {name}": round(cpu_s - before.get(name, 0.0), 2)
            for name, cpu_s in after.items()
        },
    }


def summarise(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the medians of every cell, without and with load."""
    keys = ("slots", "registered", "nodes", "hz", "ray", "arm")
    absent = {"slots": SLOTS, "registered": False}
    cells = sync_arms.grouped(runs, lambda run: tuple((absent | run)[key] for key in keys))
    return [
        dict(zip(keys, cell, strict=True))
        | {"runs": len(members)}
        | {
            phase: {
                name: statistics.median(run[phase].get(name, 0.0) for run in members)
                for name in members[0][phase]
            }
            for phase in ("quiet", "loaded")
        }
        for cell, members in cells.items()
    ]


def print_report(cells: Sequence[dict[str, Any]]) -> None:
    """Print the table of medians, each arm beside its own quiet cluster and the direct arm."""
    heads = ("ready p50 ms", "p99 ms", "groups/s", "GCS CPU s", "relay CPU s", "failed")
    names = ("p50_ms", "p99_ms", "groups_s", "gcs_cpu_s", "relay_cpu_s", "failed")
    for name, members in itertools.groupby(cells, title):
        ours = list(members)
        print(f"\n{name}")
        print(f"{'arm':<14}{'phase':<8}" + "".join(f"{head:>14}" for head in heads))
        for cell in ours:
            for phase in ("quiet", "loaded"):
                row = "".join(f"{cell[phase][name]:>14,.1f}" for name in names)
                print(f"{cell['arm']:<14}{phase:<8}{row}")
        stock = next((cell["loaded"] for cell in ours if cell["arm"] == "direct"), None)
        for cell in ours:
            if stock is not None and cell["arm"] != "direct":
                ratios = [f"{head} x {_ratio(cell['loaded'][name], stock[name])}"
                          for head, name in zip(heads[:3], names[:3], strict=True)]  # fmt: skip
                print(f"{cell['arm']} under load over direct: {', '.join(ratios)}")


def title(cell: dict[str, Any]) -> str:
    """Return what to call the cells whose arms are to be compared."""
    registered = "registered " if cell["registered"] else ""
    scarce = f", {cell['slots']} slots a raylet" if cell["slots"] < SLOTS else ""
    return (
        f"Ray {cell['ray']}, {cell['nodes']} {registered}simulated nodes, "
        f"{cell['hz']:g} view(s) a second{scarce}"
    )


def tables(cells: Sequence[dict[str, Any]]) -> dict[str, results.Table]:
    """Return the tables as the documentation has them."""
    head = ("Ray", "arm", "", "ready p50 ms", "ready p99 ms", "groups/s", "GCS CPU s")
    found: dict[str, results.Table] = {}
    for name, members in itertools.groupby(cells, key_of):
        rows = [
            [cell["ray"], cell["arm"], phase, *_shown(cell, of_phase), str(cell["runs"])]
            for cell in members
            for of_phase, phase in (
                ("quiet", "quiet"),
                ("loaded", f"{cell['nodes']} nodes publish"),
            )
        ]
        earlier = found[name][1] if name in found else []
        found[name] = ((*head, "relays CPU s", "runs"), [*earlier, *rows])
    return found


def key_of(cell: dict[str, Any]) -> str:
    """Return by which key pages refer to the table that a cell stands in."""
    return ("scarce" if cell["slots"] < SLOTS else "ample") + (
        "-registered" if cell["registered"] else ""
    )


def _shown(cell: dict[str, Any], phase: str) -> list[str]:
    figures = cell[phase]
    shown = [f"{figures[name]:#.3g}".rstrip(".") for name in ("p50_ms", "p99_ms", "groups_s")]
    shown.append(f"{figures['gcs_cpu_s']:.1f}")
    has_relays = cell["arm"].startswith("relays")
    return [*shown, f"{figures['relay_cpu_s']:.1f}" if has_relays else ""]


def _ratio(figure: float, stock: float) -> str:
    return f"{figure / stock:.2f}" if stock else "-"


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=400)
    parser.add_argument("--hz", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--slots", type=int, default=SLOTS, help="of each raylet")
    parser.add_argument("--registered", action="store_true", help="the simulated nodes too")
    sync_arms.add_common_arguments(parser.add_argument, "direct,relays-4")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse_options()
    runs = sync_arms.load_runs(options.results)
    if not options.report_only:
        generator = options.generator or sync_arms.build(sync_arms.GENERATOR)
        relay = sync_arms.relay_command(options)
        cells = [
            (ray, arm)
            for ray in options.rays.split(",")
            for arm in sync_arms.chosen_arms(options)
            if sync_arms.runs_on(arm, ray)
        ]
        for number, (ray, arm) in sync_arms.interleaved(cells, options.rounds):
            run = run_once(ray, arm, options, relay, generator)
            print(f"round {number}, Ray {ray}, {arm.name}: {json.dumps(run)}", file=sys.stderr)
            sync_arms.save_run(options.results, run)
            runs.append(run)
    cells_told = summarise(runs)
    if options.json:
        print(json.dumps({"cells": cells_told}))
    else:
        print_report(cells_told)


if __name__ == "__main__":
    main()
