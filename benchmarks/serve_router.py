"""Requests that queue for Serve replicas: stock Ray and Mantaray in turn, on both Rays.

All requests of a scenario are sent at once; the figure is the time until all are answered over the
ideal time. "wait" is what passes between the end of one request on a replica and the start of the
next one there. "fair" is for two routers that send equally much: the smaller part of the first half of what
was served, over an even share (1 is even, 0 means that one of them waited for all of the other's).

python benchmarks/serve_router.py [--quick] [--rounds N] [--rays 2.48.0,2.60.0] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from ray_programs import RAYS, figures_of

WORKLOAD = Path(__file__).with_name("serve_router_workload.py")
ARMS = {"stock": {"MANTARAY_PATCHES": "-router"}, "mantaray": {}}
TARGETS = {"20 x 300 ms": 1.05, "40 x 50 ms": 1.20, "8 x 1.5 s": 1.02}


def run_arm(ray: str, arm: str, quick: bool) -> dict[str, dict[str, float]]:
    """Run all scenarios once in a process (and cluster) of their own; return their figures."""
    command = [WORKLOAD, "quick" if quick else "full"]
    figures: dict[str, dict[str, float]] = figures_of(ray, command, ARMS[arm])
    return figures


def medians(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the median of each figure of each scenario over several runs."""
    return {
        scenario: {
            figure: round(statistics.median(run[scenario][figure] for run in runs), 3)
            for figure in figures
        }
        for scenario, figures in runs[0].items()
    }


def print_table(ray: str, arms: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print stock and Mantaray side by side."""
    print(f"\nRay {ray}: time over ideal, and wait for a free slot p50 / p99 in ms")
    head = ("scenario", "stock", "mantaray", "ratio", "target", "stock wait", "mantaray wait")
    print("{:<26}{:>8}{:>10}{:>7}{:>8}{:>18}{:>18}".format(*head))
    for scenario, ours in arms["mantaray"].items():
        stock = arms["stock"][scenario]
        waits = [f"{each['p50_ms']:.0f} / {each['p99_ms']:.0f}" for each in (stock, ours)]
        ratio = ours["over_ideal"] / stock["over_ideal"]
        target = TARGETS.get(scenario)
        print(
            f"{scenario:<26}{stock['over_ideal']:>8.3f}{ours['over_ideal']:>10.3f}{ratio:>7.2f}"
            f"{'' if target is None else f'{target:.2f}':>8}{waits[0]:>18}{waits[1]:>18}"
        )
        if "fair" in ours:
            print(f"{'  fair':<26}{stock['fair']:>8.2f}{ours['fair']:>10.2f}")


def main() -> int:
    """Measure, print, and return 0 only if every target is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the three scenarios with targets")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rays", default=",".join(RAYS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    told: dict[str, Any] = {}
    met = True
    for ray in options.rays.split(","):
        runs: dict[str, list[dict[str, dict[str, float]]]] = {arm: [] for arm in ARMS}
        for number in range(options.rounds):
            for arm in list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]:
                print(f"Ray {ray}, round {number + 1}, {arm}", file=sys.stderr)
                runs[arm].append(run_arm(ray, arm, options.quick))
        told[ray] = {arm: medians(results) for arm, results in runs.items()}
        for scenario, target in TARGETS.items():
            met &= told[ray]["mantaray"][scenario]["over_ideal"] <= target
        if not options.json:
            print_table(ray, told[ray])
    if options.json:
        print(json.dumps({"targets": TARGETS, "met": met, "rays": told}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
