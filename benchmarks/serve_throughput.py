"""Requests per second through Serve's routers: stock Ray and Mantaray in turn, on both Rays.

32 callers ask replicas that answer at once, through a handle within Serve and through HTTP. Mantaray is
to be no slower: a ratio of at least 0.95, which is the noise of the measurement.

The router alone is measured in simulated time, with 1, 8 and 64 replicas of 16 slots and with fewer or more
callers than slots: requests a simulated second, and processor time a request. The latter includes the
simulation, which costs the same in both.

python benchmarks/serve_throughput.py [--quick] [--rounds N] [--rays 2.48.0,2.60.0] [--replicas 1,8]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ray_programs import RAYS, figures_of
from serve_router import medians

WORKLOAD = Path(__file__).with_name("serve_throughput_workload.py")
ROUTER = Path(__file__).resolve().parents[1] / "tests/ray/programs/serve_router_cost.py"
ROUTER_REQUESTS = 4_000
ARMS = {"stock": {"MANTARAY_PATCHES": "-router,-slots"}, "mantaray": {}}
TARGET = 0.95


def ratios(arms: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """Return, for each scenario, Mantaray's requests per second over those of stock Ray."""
    return {
        scenario: round(ours["per_second"] / arms["stock"][scenario]["per_second"], 3)
        for scenario, ours in arms["mantaray"].items()
    }


def print_router(ray: str, arms: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print what the router alone does."""
    print(f"\nRay {ray}, the router alone: requests a simulated second, microseconds a request")
    for scenario, stock in arms["stock"].items():
        ours = arms["mantaray"][scenario]
        rates = f"{stock['per_second']:>8.0f}{ours['per_second']:>8.0f}"
        print(f"{scenario:<32}{rates}{stock['cpu_us']:>8.0f}{ours['cpu_us']:>8.0f}")


def main() -> int:
    """Measure, print, and return 0 only if Mantaray is nowhere slower."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the router alone, without a cluster")
    parser.add_argument("--replicas", default="1,8")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rays", default=",".join(RAYS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    told: dict[str, Any] = {}
    for ray in options.rays.split(","):
        runs: dict[str, list[dict[str, dict[str, float]]]] = {arm: [] for arm in ARMS}
        alone: dict[str, list[dict[str, dict[str, float]]]] = {arm: [] for arm in ARMS}
        for number in range(options.rounds):
            for arm in list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]:
                print(f"Ray {ray}, round {number + 1}, {arm}", file=sys.stderr)
                alone[arm].append(figures_of(ray, [ROUTER, str(ROUTER_REQUESTS)], ARMS[arm]))
                if not options.quick:
                    runs[arm].append(figures_of(ray, [WORKLOAD, options.replicas], ARMS[arm]))
        routers = {arm: medians(results) for arm, results in alone.items()}
        arms = (
            routers if options.quick else {arm: medians(results) for arm, results in runs.items()}
        )
        told[ray] = arms | {"ratios": ratios(arms), "router": routers}
        if not options.json:
            print_router(ray, routers)
            print(f"\nRay {ray}: requests per second")
            for scenario, ratio in told[ray]["ratios"].items():
                stock, ours = (arms[arm][scenario]["per_second"] for arm in ARMS)
                print(f"{scenario:<24}{stock:>8.0f}{ours:>8.0f}{ratio:>8.2f}")
    met = all(ratio >= TARGET for each in told.values() for ratio in each["ratios"].values())
    if options.json:
        print(json.dumps({"target": TARGET, "met": met, "rays": told}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
