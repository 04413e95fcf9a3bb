"""A shuffle of more data than the object store holds, on stock Ray and with Mantaray, beside one in memory.

The three arms take turns, so that what else the machine does falls on all of them. The table shows medians
with the lowest and the highest run, and how many times the time in memory each arm took.

    python benchmarks/shuffle.py [--rounds N] [--gigabytes N] [--store-gigabytes N] [--blocks N]
                                 [--kind tasks|data|sort|groupby|epochs|gets|pull]
                                 [--output FILE [--resume]]

`--kind` names another job than the shuffle by plain tasks. Those of Ray Data need pandas and pyarrow in
this environment.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from spill_arms import run_workload

WORKLOAD = Path(__file__).with_name("shuffle_workload.py")
TIMEOUT_S = 600
STOCK = {"MANTARAY_DISABLE": "1"}
# The arm in memory runs stock Ray with a store for all the data, its copies and the shuffled result.
IN_MEMORY_TIMES = 4
ARMS = ("memory", "stock", "mantaray")
TITLES = {
    "memory": "stock, all in memory",
    "stock": "stock, out of core",
    "mantaray": "Mantaray, out of core",
}


def run_arm(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the workload once in a process, a cluster and a directory of its own."""
    store = options.gigabytes * IN_MEMORY_TIMES if arm == "memory" else options.store_gigabytes
    variables = {} if arm == "mantaray" else STOCK
    with tempfile.TemporaryDirectory(prefix="mantaray-shuffle-") as directory:
        command = [str(WORKLOAD), options.kind, str(options.gigabytes)]
        command += [str(store), str(options.blocks), directory]
        result = run_workload(arm, command, variables, TIMEOUT_S)
    if not result["verified"]:
        raise SystemExit(f"the {arm} arm: data read back differs from what was written")
    return result


def earlier_runs(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return the whole rounds in the output file; none if there is no file yet.

    Raises:
        SystemExit: they are of another job, or were made on another machine.
    """
    if not options.output or not options.output.exists():
        return {arm: [] for arm in ARMS}
    facts = json.loads(options.output.read_text())
    runs: dict[str, list[dict[str, Any]]] = facts.pop("runs")
    now = facts_of(options)
    if any(facts[name] != now[name] for name in now if name not in ("date", "commit")):
        raise SystemExit(
            f"{options.output} holds runs of another job or machine; name another file"
        )
    rounds = min(len(runs[arm]) for arm in ARMS)
    return {arm: runs[arm][:rounds] for arm in ARMS}


def run_rounds(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    runs = earlier_runs(options) if options.resume else {arm: [] for arm in ARMS}
    first = min(len(runs[arm]) for arm in ARMS)
    for number in range(first, first + options.rounds):
        for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
            load = os.getloadavg()[0]
            runs[arm].append({**run_arm(arm, options), "load_before": load})
            seconds = runs[arm][-1]["seconds"]
            print(f"round {number + 1}, {arm}: {seconds:.1f} s", file=sys.stderr, flush=True)
            # At once, because rounds take minutes and the program may be interrupted.
            if options.output:
                save(runs, options)
    return runs


def machine() -> str:
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} processors, {memory_bytes / 1e9:.0f} GB, {platform.platform()}"


def report(runs: dict[str, list[dict[str, Any]]]) -> str:
    def median(arm: str, figure: str) -> float:
        return float(statistics.median(run[figure] for run in runs[arm]))

    in_memory = median("memory", "seconds")
    header = f"{'':<24}{'seconds':>9}{'lowest to highest':>20}{'times memory':>14}"
    lines = [f"{header}{'peak disk':>12}{'left':>9}"]
    for arm in ARMS:
        seconds = [run["seconds"] for run in runs[arm]]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        lines.append(
            f"{TITLES[arm]:<24}{statistics.median(seconds):>9.1f}{spread:>20}"
            f"{median(arm, 'seconds') / in_memory:>14.2f}"
            f"{median(arm, 'peak_disk_mb'):>9,.0f} MB{median(arm, 'after_disk_mb'):>6,.0f} MB"
        )
    times = median("stock", "seconds") / median("mantaray", "seconds")
    lines.append(f"Out of core, Mantaray takes 1/{times:.2f} of stock Ray's time.")
    return "\n".join(lines)


def facts_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the runs are made with."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=WORKLOAD.parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "machine": machine(),
        "kind": options.kind,
        "gigabytes": options.gigabytes,
        "store_gigabytes": options.store_gigabytes,
        "blocks": options.blocks,
    }


def save(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Write every run, and what they were made with, into the file that the options name."""
    options.output.write_text(json.dumps({**facts_of(options), "runs": runs}, indent=1) + "\n")


def compare(options: argparse.Namespace) -> None:
    """Run all rounds of one job and print the comparison."""
    print(
        f"{options.kind}: {options.gigabytes:g} GB in {options.blocks} blocks, "
        f"object store {options.store_gigabytes:g} GB; {machine()}",
        file=sys.stderr,
    )
    print(report(run_rounds(options)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--store-gigabytes", type=float, default=0.5)
    parser.add_argument("--blocks", type=int, default=80)
    parser.add_argument("--kind", default="tasks")
    parser.add_argument("--output", type=Path, help="a JSON file for every run")
    parser.add_argument("--resume", action="store_true", help="add rounds to those in the file")
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
