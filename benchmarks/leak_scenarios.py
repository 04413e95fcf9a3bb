"""Five leaks that users meet, side by side: what `ray memory` and `mantaray refs` say of each.

All five run live on one cluster: a list in an actor, a closure in a remote function, the traceback of a
kept exception, a reference cycle, and a borrowed reference in a long-lived actor.

    python benchmarks/leak_scenarios.py [--rays 2.48.0,2.60.0] [--save FILE]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import results
from ray_programs import RAYS, figures_of

PROGRAM = Path(__file__).resolve().parents[1] / "tests" / "ray" / "programs" / "refs_leaks.py"
# Columns of `ray memory` that say something of the leak: the process, the line, the kind.
_PLACE = re.compile(
    r"^[^|]*\| *\d+ *\| *(?P<kind>[^|]*)\|(?P<site>[^|]*)\|.*\|(?P<type>[^|]*)\|[^|]*$"
)
HEAD = ("leak", "`ray memory`", "`mantaray refs why --path`", "`mantaray refs leaks`")


def of_memory(lines: list[str]) -> str:
    """Return what `ray memory` says, without the columns that are of no help."""
    found = []
    for line in lines:
        match = _PLACE.match(line)
        if match is None:
            raise SystemExit(f"this is no line of `ray memory`: {line}")
        site = match["site"].strip()
        found.append(f"{match['kind'].strip()}, {match['type'].strip()}, call site `{site}`")
    return "; ".join(sorted(found)) or "nothing"


def of_why(said: dict[str, Any]) -> str:
    """Return which variables `mantaray refs why --path` names."""
    found = []
    for holder in said["holders"]:
        who = f"actor {holder['actor']}" if holder["actor"] else holder["kind"]
        variables = holder["variables"]
        if variables is None:
            found.append(f"{who}: waits for the others")
            continue
        if variables["problem"]:
            raise SystemExit(f"{who} did not tell: {variables['problem']}")
        hidden = holder["local_refs"] - variables["references"]
        own = [f"{hidden} of Ray's own"] if hidden > 0 else []
        found.append(f"{who}: " + ", ".join([*(f"`{path}`" for path in variables["paths"]), *own]))
    return "; ".join(found)


def of_leaks(leaks: list[dict[str, Any]]) -> str:
    """Return whom `mantaray refs leaks` names."""
    return "; ".join(str(leak["actor"] or "driver") for leak in leaks) or "not listed: two use it"


def row(name: str, told: dict[str, Any]) -> list[str]:
    """Return what the commands said of one leak."""
    return [name, of_memory(told["ray memory"]), of_why(told["why"]), of_leaks(told["leaks"])]


def rows_of(told: dict[str, dict[str, dict[str, Any]]]) -> list[list[str]]:
    """Return one row a leak; where two Rays differ, one for each."""
    found = []
    for name in next(iter(told.values())):
        of_rays = {ray: row(name, leaks[name]) for ray, leaks in told.items()}
        different = len({tuple(each) for each in of_rays.values()}) > 1
        for ray, each in of_rays.items():
            if different:
                each[0] += f", {ray}"
            if each not in found:
                found.append(each)
    return found


def main() -> None:
    """Run the leaks on each Ray and print what was said of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rays", default=",".join(RAYS), help="which Rays, separated by commas")
    parser.add_argument("--save", type=Path, help="keep the table in this result file")
    options = parser.parse_args()
    told = {ray: figures_of(ray, [PROGRAM], {}) for ray in options.rays.split(",")}
    rows = rows_of(told)
    for each in rows:
        print(f"\n{each[0]}")
        for title, said in zip(HEAD[1:], each[1:], strict=True):
            print(f"  {title.strip('`')}: {said}")
    stops_ms = [
        holder["variables"]["stop_ms"]
        for leaks in told.values()
        for leak in leaks.values()
        for holder in leak["why"]["holders"]
        if holder["variables"]
    ]
    print(f"\nlongest stop of a process: {max(stops_ms):.1f} ms")
    if options.save:
        results.write(
            options.save,
            benchmark="benchmarks/leak_scenarios.py",
            conditions="each object of 200 KB; Ray's defaults, so no creation sites are recorded",
            runs="one on each Ray",
            figures={"longest_stop_ms": round(max(stops_ms), 1)},
            tables={"said": (HEAD, rows)},
        )


if __name__ == "__main__":
    main()
