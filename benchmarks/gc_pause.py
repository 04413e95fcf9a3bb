"""All stalls of a process with a large heap, and what caused them: stock and Mantaray in turn.

A thread ticks every millisecond; a tick that comes more than 5 ms late is a stall. Ray asks the cluster
to collect garbage every second. The process has three million live containers (`--containers`).

  (a)  an actor that holds nothing of the object store; each call leaves 2,000 lists in cycles
  (b)  holds one reference and makes no garbage
  (c)  holds 1,000 references and keeps putting fresh ones into reference cycles
  (d)  the heap grows by a million containers a minute
  (e)  like (a), an asyncio actor
  (f)  like (a), the driver
  hidden  references in the old heap become garbage while the object store is full

The cause of a stall is the collection that overlaps it most, if it has used processor time: a short
collection may overlap a long stall because the machine does something else. Stalls of a process that does
nothing but tick are called "machine".

python benchmarks/gc_pause.py [--quick] [--rounds N] [--rays 2.60.0] [--scenarios a,b] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_programs import figures_of

WORKLOAD = Path(__file__).with_name("gc_pause_workload.py")
RESULTS = Path(__file__).resolve().parents[1] / "build" / "gc_pause.json"
ARMS = {"stock": {"MANTARAY_PATCHES": "-gc"}, "mantaray": {}}
SCENARIOS = ("a", "b", "c", "d", "e", "f", "hidden")
TARGET_RATIO = 20.0
TARGET_P999_MS = 5.0
TARGET_LONGEST_MS = 40.0
FULL_S = 60
QUICK_S = 15
# A stall has a cause if that covers this share of it, and was at work for this share or so long.
_OVERLAP = 0.3
_WORK_S = 0.02
MACHINE, OTHER, BESIDE = "machine", "no collection", "no collection, beside a search"
# Begin and end in seconds. Of a collection also its processor time in seconds, and what it was.
Interval = Sequence[Any]


def _overlap_s(one: Interval, other: Interval) -> float:
    return max(0.0, float(min(one[1], other[1])) - float(max(one[0], other[0])))


def cause_of(stall: Interval, run: dict[str, list[Interval]]) -> str:
    """Return what caused a stall.

    Args:
        stall: its begin and end, in seconds.
        run: "collections"; "machine", the stalls of a process that only ticks; "searches".
    """
    least_s = _OVERLAP * (stall[1] - stall[0])
    found = [
        # In one collection's time another may lie: the innermost is told, which is the shorter one.
        (-round(_overlap_s(stall, each), 3), each[1] - each[0], each[3])
        for each in run["collections"]
        if _overlap_s(stall, each) >= least_s and each[2] >= min(least_s, _WORK_S)
    ]
    if found:
        return str(min(found)[2])
    if any(_overlap_s(stall, each) >= least_s for each in run["machine"]):
        return MACHINE
    return BESIDE if any(_overlap_s(stall, each) > 0 for each in run["searches"]) else OTHER


def summary(run: dict[str, Any]) -> dict[str, Any]:
    """Return one run's figures; its stalls by cause: count, median and longest in ms."""
    causes: dict[str, list[float]] = defaultdict(list)
    for stall in run["stalls"]:
        cause = cause_of(stall, run)
        causes[cause].append((stall[1] - stall[0]) * 1_000)
    # A stall of the machine is not Python's; the target leaves it out, the table shows it.
    counted = [ms for cause, each in causes.items() if cause != MACHINE for ms in each]
    return {
        "p999_ms": run["p999_ms"],
        "longest_ms": run["longest_ms"],
        "longest_counted_ms": max(counted, default=0.0),
        "over_40_ms": sum(ms > TARGET_LONGEST_MS for ms in counted),
        "stalls": len(run["stalls"]),
        "building_s": run.get("building_s"),
        "released_s": run.get("released_s"),
        "left": run.get("left"),
        "causes": {
            cause: [len(each), statistics.median(each), max(each)]
            for cause, each in sorted(causes.items(), key=lambda item: -max(item[1]))
        },
    }


def worst(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return several runs as one: all stalls together, and the highest of each other figure."""
    merged = dict(runs[0])
    for key in ("p999_ms", "longest_ms", "longest_counted_ms", "released_s", "left"):
        merged[key] = max((run[key] for run in runs if run[key] is not None), default=None)
    merged["over_40_ms"] = sum(run["over_40_ms"] for run in runs)
    merged["stalls"] = sum(run["stalls"] for run in runs)
    causes: dict[str, list[list[float]]] = defaultdict(list)
    for run in runs:
        for cause, each in run["causes"].items():
            causes[cause].append(each)
    merged["causes"] = {
        cause: [
            sum(each[0] for each in seen),
            statistics.median(each[1] for each in seen),
            max(each[2] for each in seen),
        ]
        for cause, seen in causes.items()
    }
    return merged


def is_met(stock: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Return whether one scenario meets the targets."""
    if ours["left"]:
        return False
    if ours["p999_ms"] > TARGET_P999_MS or ours["longest_counted_ms"] > TARGET_LONGEST_MS:
        return False
    return bool(ours["longest_counted_ms"] * TARGET_RATIO <= max(stock["longest_ms"], 100.0))


def print_scenario(ray: str, scenario: str, arms: dict[str, dict[str, Any]]) -> None:
    """Print the stalls of stock and Mantaray below one another."""
    print(f"\n({scenario}) Ray {ray}")
    print(f"{'':<44}{'stalls':>8}{'typical ms':>12}{'longest ms':>12}{'p99.9 ms':>10}")
    for arm, each in arms.items():
        line = f"{each['stalls']:>8}{'':>12}{each['longest_ms']:>12.1f}{each['p999_ms']:>10.1f}"
        print(f"{arm:<44}{line}")
        for cause, (count, typical, longest) in each["causes"].items():
            print(f"    {cause:<40}{count:>8}{typical:>12.1f}{longest:>12.1f}")
        if each["released_s"] is not None:
            print(f"    released after {each['released_s']:.1f} s, {each['left']} left")


def main() -> int:
    """Measure, print, and return 0 only if every target is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S} s instead of {FULL_S} s")
    parser.add_argument("--seconds", type=int, help="how long each scenario takes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rays", default="2.60.0")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--containers", type=int, default=3_000_000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--output", type=Path, default=RESULTS, help="a file for all stalls")
    options = parser.parse_args()
    seconds = options.seconds or (QUICK_S if options.quick else FULL_S)
    told: dict[str, Any] = {"seconds": seconds, "containers": options.containers, "rays": {}}
    raw: dict[str, Any] = {}
    met = True
    for ray in options.rays.split(","):
        for scenario in options.scenarios.split(","):
            runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
            for number in range(options.rounds):
                for arm in list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]:
                    print(f"Ray {ray}, ({scenario}), {number + 1}, {arm}", file=sys.stderr)
                    command = [WORKLOAD, scenario, str(seconds), str(options.containers)]
                    runs[arm].append(
                        figures_of(ray, command, ARMS[arm], timeout_s=300 + seconds * 2)
                    )
            raw[f"{ray} {scenario}"] = runs
            arms = {arm: worst([summary(run) for run in each]) for arm, each in runs.items()}
            told["rays"].setdefault(ray, {})[scenario] = arms
            met &= is_met(arms["stock"], arms["mantaray"])
            if not options.json:
                print_scenario(ray, scenario, arms)
            # Whoever ends the program early keeps what there is.
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps({**told, "runs": raw}))
    told["met"] = met
    print(json.dumps(told) if options.json else f"\nall stalls: {options.output}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
