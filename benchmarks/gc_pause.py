"""How long Ray's requests for garbage collection stop an actor: stock and Mantaray in turn, both Rays.

A thread of the actor ticks every millisecond; the longest time between two ticks is the stall. The actor
has three million live containers and serves calls all the time, while the cluster is told to collect
every second. What the ticker sees without any request is shown as "quiet".

  (i)   the actor holds nothing from the object store; each call leaves 2,000 lists in cycles, so that
        Python collects by itself, too
  (ii)  it holds 1,000 references and keeps putting fresh ones into reference cycles
  (iii) references hidden in its old heap, while the object store is full: how soon they are released, and
        the share of time that full collections take

python benchmarks/gc_pause.py [--quick] [--rounds N] [--rays 2.48.0,2.60.0] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from ray_programs import RAYS, figures_of

WORKLOAD = Path(__file__).with_name("gc_pause_workload.py")
ARMS = {"stock": {"MANTARAY_PATCHES": "-gc"}, "mantaray": {}}
# Longest stall of stock 2.60.0 over Mantaray's, in (i) and (ii).
TARGET_RATIO = 20.0
TARGET_SHARE = 0.02
REFERENCE_RAY = "2.60.0"
FULL_S = 60
QUICK_S = 8


def run_arm(ray: str, arm: str, seconds: int) -> dict[str, Any]:
    """Run the three scenarios once in a process (and cluster) of their own; return their figures."""
    figures: dict[str, Any] = figures_of(ray, [WORKLOAD, str(seconds)], ARMS[arm])
    return figures


def median(runs: list[dict[str, Any]], *path: str) -> float:
    """Return the median of one figure over several runs."""
    values: list[float] = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value[key]
        values.append(value)
    middle: float = statistics.median(values)
    return round(middle, 4)


def compare(runs: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Return medians, ratios to stock and whether the targets are met."""
    told: dict[str, Any] = {"rays": {}, "met": True}
    for ray, arms in runs.items():
        told["rays"][ray] = {
            arm: {
                "quiet_ms": median(results, "quiet", "longest_ms"),
                "quiet_typical_ms": median(results, "quiet", "typical_ms"),
                "i_ms": median(results, "i", "longest_ms"),
                "i_typical_ms": median(results, "i", "typical_ms"),
                "i_collection_ms": median(results, "i", "collection_ms"),
                "ii_ms": median(results, "ii", "longest_ms"),
                "ii_typical_ms": median(results, "ii", "typical_ms"),
                "ii_young_ms": median(results, "ii", "young_ms"),
                "ii_released": median(results, "ii", "released"),
                "iii_released_s": median(results, "iii", "released_s"),
                "iii_left": median(results, "iii", "left"),
                "iii_full_s": median(results, "iii", "full_s"),
                "iii_full_share": median(results, "iii", "full_share"),
                "iii_put_longest_s": median(results, "iii", "put_longest_s"),
            }
            for arm, results in arms.items()
        }
    reference = told["rays"].get(REFERENCE_RAY, {}).get("stock")
    for figures in told["rays"].values():
        ours = figures["mantaray"]
        base = reference or figures["stock"]
        for scenario in ("i_ms", "ii_ms"):
            ours[f"{scenario}_ratio"] = round(base[scenario] / ours[scenario], 1)
            told["met"] &= ours[f"{scenario}_ratio"] >= TARGET_RATIO
        told["met"] &= ours["iii_left"] == 0 and ours["iii_full_share"] <= TARGET_SHARE
    return told


def print_table(told: dict[str, Any]) -> None:
    """Print stock and Mantaray side by side."""
    print(
        "longest stall / median of the longest of each second, in ms; ratio: of the longest, to stock"
    )
    print(f"{REFERENCE_RAY}, target {TARGET_RATIO:.0f}")
    print(f"{'':<18}{'quiet':>14}{'(i)':>16}{'ratio':>8}{'(ii)':>16}{'ratio':>8}")
    for ray, arms in told["rays"].items():
        for arm, each in arms.items():
            cells = [
                f"{each[f'{key}_ms']:.1f} / {each[f'{key}_typical_ms']:.1f}"
                for key in ("quiet", "i", "ii")
            ]
            ratios = [f"{each.get(f'{key}_ratio', '')}" for key in ("i_ms", "ii_ms")]
            print(
                f"{arm + ' ' + ray:<18}{cells[0]:>14}{cells[1]:>16}{ratios[0]:>8}"
                f"{cells[2]:>16}{ratios[1]:>8}"
            )
    print("\n(iii) old garbage under a full store; full collections may take 2 % of the time")
    print(
        f"{'':<18}{'released after s':>18}{'left':>6}{'full s':>8}{'share':>8}{'longest put s':>15}"
    )
    for ray, arms in told["rays"].items():
        for arm, each in arms.items():
            share = f"{each['iii_full_share'] * 100:.1f} %" if each["iii_full_share"] else "-"
            print(
                f"{arm + ' ' + ray:<18}{each['iii_released_s']:>18.1f}{each['iii_left']:>6.0f}"
                f"{each['iii_full_s']:>8.2f}{share:>8}{each['iii_put_longest_s']:>15.1f}"
            )


def main() -> int:
    """Measure, print, and return 0 only if every target is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S} s instead of {FULL_S} s")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rays", default=",".join(RAYS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds = QUICK_S if options.quick else FULL_S
    rays = options.rays.split(",")
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {
        ray: {arm: [] for arm in ARMS} for ray in rays
    }
    for number in range(options.rounds):
        for arm in list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]:
            for ray in rays:
                print(f"round {number + 1}, {arm} on Ray {ray}", file=sys.stderr)
                runs[ray][arm].append(run_arm(ray, arm, seconds))
    told = compare(runs)
    if options.json:
        print(json.dumps({"target_ratio": TARGET_RATIO, "target_share": TARGET_SHARE, **told}))
    else:
        print_table(told)
    return 0 if told["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
