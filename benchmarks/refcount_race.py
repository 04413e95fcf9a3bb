"""Two checks of Ray's reference counter that end processes: stock Ray dies, Mantaray lives.

Each arm starts a driver of its own. `doubled` delivers each notice of a borrower twice, in three orders. On
Ray 2.48.0 to 2.55.1 it ends the owner every time. `released` has an object with a reference in it go out of
scope twice, with nothing but Ray's public calls. It ends the borrower on every release, every time.
`delayed` and `killed` are for Ray up to 2.55.1, too, and replace nothing in Ray. In `delayed` a borrower
lets go of an object and is killed 50 ms later, over and over, and a setting of Ray's delays the driver's
handling of "reference removed" messages. In `killed` a borrower lets go of 2,000 objects at once and is
killed, over and over, while other processes keep the machine busy and the driver's event loop gets only
what they leave. The row says with which kill the driver died.

    python benchmarks/refcount_race.py [--rays 2.48.0,2.52.1] [--ways doubled] [--kills 20] [--save FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.rays import RayEnv, find_ray

PROGRAMS = Path(__file__).resolve().parents[1] / "tests" / "ray" / "programs"
RACE = PROGRAMS / "refcount_race.py"
RELEASED = PROGRAMS / "refs_released_twice.py"
# The patches that the check concerns, which the other arm has switched off.
ARMS = {"stock": {"MANTARAY_PATCHES": "-refcount,-nesting"}, "mantaray": {}}
WAYS = ("doubled", "delayed", "released", "killed")
# From here on Ray's own counter takes a second notice.
NATIVE = (2, 56)


def race(env: RayEnv, arm: str, arguments: list[str], timeout_s: float) -> dict[str, Any]:
    """Run one driver of two notices to its end and return how it ended."""
    # A node whose driver dies takes a while to end.
    ended = env.run(RACE, arguments, ARMS[arm], timeout_s, left_timeout_s=180.0).told
    if ended["status"] != 0:
        what = ended["check"] or f"status {ended['status']}"
        return {"lived": False, "rounds": ended["rounds"], "what": what, "details": ended}
    guard = ended["told"]["guard"]
    repeated = guard["repeated_ref_removed"] + guard["repeated_publisher_failed"]
    left = len(ended["told"]["left"])
    what = f"{repeated} repeated notices, {left} objects left"
    return {"lived": True, "rounds": ended["rounds"], "what": what, "details": ended}


def released(env: RayEnv, arm: str, way: str) -> dict[str, Any]:
    """Have an outer object go out of scope twice and return what became of the borrower."""
    done = env.run(RELEASED, [way], ARMS[arm], left_timeout_s=180.0)
    output = done.stdout + done.stderr
    if done.told["died"]:
        check = output.partition("Check failed: ")[2].split("\n")[0].strip()
        return {"lived": False, "rounds": 0, "what": check or "no check seen", "details": done.told}
    borrower = done.told["borrower"]
    repeated = borrower["guard"]["repeated_releases"]
    what = f"{repeated} repeated releases, {borrower['left']} objects left"
    return {"lived": True, "rounds": 0, "what": what, "details": done.told}


def measure(version: str, chosen: list[str], kills: int) -> list[dict[str, Any]]:
    """Return one row for each way to provoke a check and each arm."""
    env = find_ray(version)
    rows = []
    affected = tuple(map(int, version.split(".")[:2])) < NATIVE
    for arm in ARMS:
        ways: dict[str, Callable[[], dict[str, Any]]] = {}
        if "released" in chosen:
            for way in ("borrowed-again", "late-question"):
                ways[f"released {way}"] = partial(released, env, arm, way)
        if "doubled" in chosen and affected:
            ways["doubled"] = partial(race, env, arm, ["doubled"], 400.0)
        if "delayed" in chosen and affected:
            ways["delayed"] = partial(race, env, arm, ["delayed", str(kills)], 400.0)
        if "killed" in chosen and affected:
            ways["killed"] = partial(race, env, arm, ["killed", str(kills)], 200 + 20.0 * kills)
        for way, run in ways.items():
            print(f"Ray {version}: {way}, {arm}", file=sys.stderr, flush=True)
            rows.append({"ray": version, "way": way, "arm": arm, **run()})
    return sorted(rows, key=lambda row: str(row["way"]))


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print the outcome of each run on a line."""
    for row in rows:
        counted = row["way"] in ("delayed", "killed") and not row["lived"]
        after = f" with kill {row['rounds'] + 1}" if counted else ""
        rounds = f", {row['rounds']} kills" if row["rounds"] and row["lived"] else ""
        outcome = f"lived{rounds}" if row["lived"] else f"DIED{after}"
        print(f"{row['ray']:<8}{row['way']:<26}{row['arm']:<10}{outcome}: {row['what']}")


def main() -> int:
    """Print the rows; return 0 only if Mantaray lived through everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rays", default="2.48.0", help="which Rays, separated by commas")
    parser.add_argument("--ways", default=",".join(WAYS), help="which ways, separated by commas")
    parser.add_argument(
        "--kills", type=int, default=20, help="of `delayed` and `killed`, for each arm"
    )
    parser.add_argument("--json", action="store_true", help="print all that the drivers told")
    parser.add_argument("--save", type=Path, help="write the same into a file")
    options = parser.parse_args()
    chosen = options.ways.split(",")
    rows: list[dict[str, Any]] = []
    result = {
        "benchmark": "refcount_race",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "rows": rows,
    }
    for ray in options.rays.split(","):
        rows += measure(ray, chosen, options.kills)
        # After each, so that a run that is ended leaves what it has seen.
        if options.save is not None:
            options.save.write_text(json.dumps(result, indent=2) + "\n")
    if options.json:
        print(json.dumps(result))
    else:
        print_rows(rows)
    return 0 if all(row["lived"] for row in rows if row["arm"] == "mantaray") else 1


if __name__ == "__main__":
    sys.exit(main())
