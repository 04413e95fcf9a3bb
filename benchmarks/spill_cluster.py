"""Puts that spill, in a real cluster: stock Ray and Mantaray in turn, medians and their ratio.

`ceiling_mb_s` is the pace of puts that do not spill, in the same cluster, just before: what the driver, the
raylet and the object store do by themselves. No spilling, however fast, gets beyond it.

python benchmarks/spill_cluster.py [--rounds N] [--objects N] [--object-bytes N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

from spill_arms import ARMS, run_arm

FIGURES = ("ceiling_mb_s", "spill_mb_s", "restore_mb_s", "amplification")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=8000)
    parser.add_argument("--object-bytes", type=int, default=150_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for number in range(arguments.rounds):
        for arm in list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]:
            print(f"round {number + 1}, {arm}", file=sys.stderr)
            runs[arm].append(run_arm(arm, arguments.objects, arguments.object_bytes))
    medians = {
        arm: {figure: statistics.median(run[figure] for run in results) for figure in FIGURES}
        for arm, results in runs.items()
    }
    if arguments.json:
        print(json.dumps({"object_bytes": arguments.object_bytes, **medians}))
        return
    print(
        f"{arguments.objects} objects of {arguments.object_bytes:,} bytes, medians of {arguments.rounds}"
    )
    print(f"{'figure':<16}{'stock':>12}{'mantaray':>12}{'ratio':>8}")
    for figure in FIGURES:
        stock, ours = medians["stock"][figure], medians["mantaray"][figure]
        print(f"{figure:<16}{stock:>12.2f}{ours:>12.2f}{ours / stock:>8.2f}")
    reached = medians["mantaray"]["spill_mb_s"] / medians["mantaray"]["ceiling_mb_s"]
    print(f"With Mantaray, puts that spill run at {reached:.0%} of the pace of puts that do not.")


if __name__ == "__main__":
    main()
