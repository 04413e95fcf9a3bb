"""Two notices about one borrower: stock Ray dies, Mantaray lives, on a Ray from 2.48.0 to 2.55.1.

Each arm starts a driver of its own. `doubled` delivers each notice of a borrower twice, in three orders; it
ends an affected Ray every time. `killed` changes nothing in Ray: borrowers are lent objects, let go of
others, and are killed, over and over, for --seconds at most. The row says in which round a driver died.

    python benchmarks/refcount_race.py [--ray 2.48.0] [--seconds 120] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.rays import RayEnv, find_ray

RACE = Path(__file__).resolve().parents[1] / "tests" / "ray" / "programs" / "refcount_race.py"
ARMS = {"stock": {"MANTARAY_DISABLE": "1"}, "mantaray": {}}


def run(env: RayEnv, arm: str, arguments: list[str], timeout_s: float) -> dict[str, Any]:
    """Run one driver to its end and return how it ended."""
    # A node whose driver dies takes a while to end.
    done = env.run(RACE, arguments, ARMS[arm], timeout_s, left_timeout_s=180.0)
    ended: dict[str, Any] = done.told
    return ended


def outcome(ended: dict[str, Any]) -> str:
    """Say in one phrase how a driver ended."""
    after = f" in round {ended['rounds'] + 1}" if ended["rounds"] else ""
    if ended["status"] != 0:
        return f"died{after}: {ended['check'] or 'status ' + str(ended['status'])}"
    guard = ended["told"]["guard"]
    repeated = guard["repeated_ref_removed"] + guard["repeated_publisher_failed"]
    rounds = f", {ended['rounds']} rounds" if ended["rounds"] else ""
    return f"lived{rounds}, {repeated} further notices, objects left: {len(ended['told']['left'])}"


def main() -> None:
    """Print one row for each way to provoke the race and each arm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ray", default="2.48.0", help="a release from 2.48.0 to 2.55.1")
    parser.add_argument("--seconds", type=float, default=120, help="of `killed`, for each arm")
    parser.add_argument("--json", action="store_true", help="print all that the drivers told")
    options = parser.parse_args()
    env = find_ray(options.ray)
    results: dict[str, dict[str, Any]] = {}
    ways = {"doubled": ["doubled"]}
    if options.seconds > 0:
        ways["killed"] = ["killed", str(options.seconds)]
    for way, arguments in ways.items():
        for arm in ARMS:
            print(f"{way}, {arm}:", file=sys.stderr, flush=True)
            results.setdefault(way, {})[arm] = run(env, arm, arguments, 300 + 2 * options.seconds)
    if options.json:
        print(json.dumps(results))
        return
    print(f"Ray {options.ray}")
    for way, arms in results.items():
        for arm, ended in arms.items():
            print(f"{way:<10}{arm:<10}{outcome(ended)}")


if __name__ == "__main__":
    main()
