"""What verifying a spilled object costs a pull: stock, Mantaray without the check, and with it.

A node holds objects that are spilled, and another one pulls them, one after the other. The two raylets of a
run are on this machine.

    python benchmarks/spill_pull.py [--rounds 5] [--rays 2.60.0] [--objects 10] [--megabytes 50] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from ray_programs import figures_of

WORKLOAD = Path(__file__).with_name("spill_pull_workload.py")
ARMS = {
    "stock": {"MANTARAY_PATCHES": "-spill"},
    "unchecked": {"MANTARAY_SPILL_CHECK_PULLS": "0"},
    "checked": {},
}
FIGURES = ("typical_ms", "longest_ms", "mb_s")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rays", nargs="+", default=["2.60.0"])
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    seen: dict[str, dict[str, list[dict[str, float]]]] = {
        ray: {arm: [] for arm in ARMS} for ray in options.rays
    }
    command: list[str | Path] = [WORKLOAD, str(options.objects), str(options.megabytes * 1_000_000)]
    for number in range(options.rounds):
        # Each round begins with another arm, because the machine's speed drifts.
        order = [*ARMS][number % len(ARMS) :] + [*ARMS][: number % len(ARMS)]
        for ray in options.rays:
            for arm in order:
                seen[ray][arm].append(figures_of(ray, command, ARMS[arm]))
    if options.json:
        print(json.dumps(seen))
        return 0
    for ray, arms in seen.items():
        print(f"Ray {ray}: median (lowest to highest) of {options.rounds} runs")
        print(f"{'':12}" + "".join(f"{figure:>28}" for figure in FIGURES))
        for arm, runs in arms.items():
            cells = []
            for figure in FIGURES:
                values = sorted(run[figure] for run in runs)
                cells.append(
                    f"{statistics.median(values):.0f} ({values[0]:.0f} to {values[-1]:.0f})"
                )
            print(f"{arm:12}" + "".join(f"{cell:>28}" for cell in cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
