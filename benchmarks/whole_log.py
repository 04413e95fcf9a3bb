"""A whole job log of 5 GB through Ray's job API: stock Ray and Mantaray in turn, on both Rays.

The client reads and discards. Measured: time to the first byte of the log, time in all, and what the agent,
the head and the head's job module hold at most above what they held before. Stock Ray holds the log several
times over: an arm ends when one process holds more than --limit-gb, and its row says so.

    python benchmarks/whole_log.py [--quick] [--json] [--gb N] [--limit-gb N] [--directory DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).resolve().parents[1] / ".venvs"
WORKLOAD = Path(__file__).with_name("whole_log_workload.py")
RAYS = ("2.48.0", "2.60.0")
ARMS = {"stock": {"MANTARAY_PATCHES": "-joblogs"}, "mantaray": {}}
SERVERS = ("agent", "module", "head")
TARGET_MB = 60
TIMEOUT_S = 240


def run_arm(ray: str, arm: str, size_gb: float, limit_gb: float, directory: str) -> dict[str, Any]:
    """Fetch the log once in a cluster of its own; return the figures."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "MANTARAY_"))
    }
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="mwl-", dir=directory) as root:
        command = [str(ENVIRONMENTS / f"ray-{ray}" / "bin" / "python"), str(WORKLOAD), root]
        process = subprocess.Popen(
            [*command, str(int(size_gb * 1e9)), str(int(limit_gb * 1e9))],
            env=kept | quiet | ARMS[arm],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, error = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f"{arm} on Ray {ray} did not end in {TIMEOUT_S} s") from None
        if process.returncode != 0:
            raise SystemExit(f"{arm} on Ray {ray} failed ({process.returncode}):\n{error}")
        figures: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return figures


def row(ray: str, arm: str, figures: dict[str, Any]) -> str:
    """Return one line of the table."""
    held = "".join(f"{figures['held_mb'][server]:>12,.0f}" for server in SERVERS)
    times = "".join(
        f"{'-' if figures[name] is None else format(figures[name], '.1f'):>14}"
        for name in ("first_byte_s", "total_s")
    )
    return f"{ray:<9}{arm:<10}{times}{held}  {figures['outcome']}"


def main() -> int:
    """Measure, print, and return 0 only if Mantaray stays below its target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a log of 200 MB")
    parser.add_argument("--gb", type=float, default=5.0)
    parser.add_argument("--limit-gb", type=float, default=12.0)
    parser.add_argument("--rays", default=",".join(RAYS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    size_gb = 0.2 if options.quick else options.gb
    told: dict[str, dict[str, Any]] = {}
    if not options.json:
        print(f"a log of {size_gb} GB; MB held at most above what was held before")
        head = ("first byte s", "total s", *SERVERS)
        print(
            f"{'Ray':<9}{'':<10}{head[0]:>14}{head[1]:>14}" + "".join(f"{s:>12}" for s in SERVERS)
        )
    met = True
    for ray in options.rays.split(","):
        told[ray] = {}
        for arm in options.arms.split(","):
            seen = run_arm(ray, arm, size_gb, options.limit_gb, options.directory)
            told[ray][arm] = seen
            if arm == "mantaray":
                met &= seen["outcome"] == "whole" and max(seen["held_mb"].values()) < TARGET_MB
            if not options.json:
                print(row(ray, arm, seen), flush=True)
    if options.json:
        print(json.dumps({"target_mb": TARGET_MB, "met": met, "rays": told}))
    else:
        print(f"target: under {TARGET_MB} MB in every server")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
