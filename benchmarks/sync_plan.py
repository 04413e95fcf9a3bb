"""What `mantaray sim sync` predicts beside what was measured, as the table of docs/sync-simulation.md.

Every load that sync_storm.py has measured with the light client is planned with the planner's own costs.
The planner gives every relay a core of its own, while the measured ones share this machine with
everything else. Nothing is measured here.

python benchmarks/sync_plan.py [--results benchmarks/results/sync_storm.jsonl] [--json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import results
import sync_arms
import sync_storm

from mantaray.sim import COSTS, Plan, Prediction, predict

RESULTS = sync_arms.REPOSITORY / "benchmarks/results/sync_storm.jsonl"
# Of a relay that is told nothing else.
DEFAULT_WINDOW_MS = 25.0


def prediction(cell: sync_storm.Cell) -> Prediction | None:
    """Return what the planner says of a cell; None where it has no word for it."""
    arm = sync_arms.parse_arm(cell.arm)
    if arm.config or arm.hush or cell.material_every != 1 or cell.workers or cell.client != "light":
        return None
    window_ms = DEFAULT_WINDOW_MS if arm.window_ms is None else float(arm.window_ms)
    return predict(Plan(cell.nodes, cell.hz, arm.relays, window_ms), COSTS[cell.ray[:4]])


def row(cell: sync_storm.Cell, figures: dict[str, Any], planned: Prediction) -> dict[str, Any]:
    """Return what was measured and predicted of a cell: cores, and milliseconds."""
    relays = sync_arms.parse_arm(cell.arm).relays
    seconds = figures["seconds"]
    return {
        "nodes": cell.nodes,
        "hz": cell.hz,
        "ray": cell.ray,
        "arm": cell.arm,
        "gcs_cores": figures["gcs_cpu_s"] / seconds,
        "planned_gcs_cores": planned.gcs_cores,
        "relay_cores": figures["relay_cpu_s"] / seconds / relays if relays else None,
        "planned_relay_cores": planned.relay_cores if relays else None,
        "p99_ms": figures["staleness_p99_ms"],
        "shown_p99": sync_storm.bounded(figures, "staleness_p99_ms"),
        "planned_p99_ms": planned.staleness_p99_ms,
    }


def table(rows: list[dict[str, Any]]) -> results.Table:
    """Return the table as the documentation has it."""
    heads = ("GCS cores", "cores a relay", "p99 staleness ms")
    named = [title for head in heads for title in (f"{head}: measured", "predicted")]
    shown = []
    for each in rows:
        cores = [each["gcs_cores"], each["planned_gcs_cores"]]
        cores += [each["relay_cores"], each["planned_relay_cores"]]
        cells = ["" if value is None else f"{value:.2f}" for value in cores]
        cells += [each["shown_p99"], sync_storm.show(each["planned_p99_ms"])]
        load = f"{each['nodes']} x {each['hz']:g}"
        shown.append([load, each["ray"], each["arm"], *cells])
    return ["nodes x Hz", "Ray", "arm", *named], shown


def print_markdown(rows: list[dict[str, Any]]) -> None:
    """Print the table in Markdown."""
    head, shown = table(rows)
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for each in shown:
        print(f"| {' | '.join(each)} |")


def compared(path: Path) -> list[dict[str, Any]]:
    """Return what was measured and predicted of each cell that the runs of a file have."""
    return [
        row(cell, figures, planned)
        for cell, figures in sync_storm.summarise(sync_arms.load_runs(path)).items()
        if (planned := prediction(cell)) is not None
    ]


def main() -> None:
    """Read the runs, plan the same, print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = compared(options.results)
    if options.json:
        print(json.dumps(rows))
    else:
        print_markdown(rows)


if __name__ == "__main__":
    main()
