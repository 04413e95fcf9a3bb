"""Makes docs/compatibility.md from what the smoke saw on each release (docs/results/rays).

python -m tests.support.compatibility              writes the page
python -m tests.support.compatibility --releases   prints the releases that Mantaray knows, one a line
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mantaray.overlay.hooks import OVERLAY
from mantaray.overlay.patch import Patch
from packaging.version import Version

from tools.markdown import table

from .rays import REPOSITORY

PAGE = REPOSITORY / "docs" / "compatibility.md"
RESULTS = REPOSITORY / "docs" / "results" / "rays"
KNOWN = REPOSITORY / "python" / "mantaray" / "overlay" / "rays"
_OPENING = """\
# Compatibility: which Ray, which Python, which patch

This page tells you which releases of Ray Mantaray serves, which patches work on each, and when somebody
last saw them work. `make test-rays` makes this page from the files in `docs/results/rays`; do not edit
it by hand.

A release that is not in the first table is unknown. Mantaray leaves an unknown Ray as it came and
prints one line that says so ([overlay.md](overlay.md)).

## Which patches work on which release
A cell shows what the smoke found: every patch does its work once on a real cluster, and the same work
is done on a stock cluster beside it.

| cell | meaning |
|---|---|
| yes | the patch was attached and did its work |
| native | Ray's own form of the feature is enough; Mantaray changes nothing |
| **no** | the patch was refused, or it did not do its work |
| - | the patch did not exist in that run |
| (empty) | Mantaray knows the release, and nobody has run the smoke on it yet |

"""
_UPSTREAM = """\
## What Ray itself has
The second column names the release from which Ray has a plain form of the feature. From the release in
the third column on, that form is enough and Mantaray leaves it alone.

"""
_FIGURES = """\
## What the smoke did, and what it measured
Each cell shows stock Ray, then Mantaray, from one run on a machine that may have had other work. The
figures show that a patch works, not how fast it is: the benchmarks measure that.

In the table of `gc`, a stall of under 10 ms on stock Ray means that no collection was seen: Python's own
collection of young objects found the garbage first, or Ray's trigger was dropped.

"""


def known_releases(directory: Path = KNOWN) -> list[str]:
    """Return the releases of the overlay's table, the oldest first."""
    return sorted((path.stem for path in directory.glob("*.json")), key=Version)


def read_results(directory: Path = RESULTS) -> list[dict[str, Any]]:
    """Return what the smoke saw, by release and Python."""
    found = [json.loads(path.read_text()) for path in directory.glob("*.json")]
    return sorted(found, key=lambda each: (Version(each["ray"]), Version(each["python"])))


def registered_patches() -> list[Patch]:
    """Return every patch of the installed Mantaray, by name."""
    OVERLAY.discover()
    return sorted(OVERLAY.patches(), key=lambda patch: patch.name)


def make_page(known: Sequence[str], results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page. It depends on what was seen and on nothing else of Mantaray.

    Args:
        known: the releases of the overlay's table.
        results: what the smoke saw, as `read_results` returns it.
    """
    # The newest run that saw a patch says what the patch is for.
    patches = {name: each["patches"][name] for each in results for name in each["patches"]}
    upstream = [
        (name, p["summary"], p["plain_since"] or "none", p["enough_since"] or "never")
        for name, p in sorted(patches.items())
    ]
    return (
        _OPENING
        + _states(known, results, sorted(patches))
        + "\n"
        + _UPSTREAM
        + table(("patch", "what it does", "plain form in Ray", "enough since"), upstream)
        + "\n"
        + _FIGURES
        + "\n".join(_figures(name, results) for name in sorted(patches))
    )


def _states(
    known: Sequence[str], results: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> str:
    rows = [
        (
            each["ray"],
            each["python"],
            f"{each['date']} ({each['commit']})",
            *(_state(each["patches"].get(name)) for name in names),
        )
        for each in results
    ]
    seen = {each["ray"] for each in results}
    rows += [(ray, "", "not run yet", *("" for _ in names)) for ray in known if ray not in seen]
    rows.sort(key=lambda row: Version(row[0]))
    return table(("Ray", "Python", "last seen", *names), rows)


def _state(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return "-"
    if not outcome["ok"]:
        return "**no**"
    return "native" if outcome["state"] == "native" else "yes"


def _figures(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    works = [
        (each["ray"], each["python"], each["patches"][name]["work"])
        for each in results
        if name in each["patches"]
    ]
    # The newest run says what is done.
    work = works[-1][2]
    rows = [
        (ray, python, _cell(each["stock"], "no such thing"), _cell(each["ours"], "no such thing"))
        for ray, python, each in works
    ]
    title = f"### {name}\n{work['did'][0].upper()}{work['did'][1:]}. Figure: {work['figure']}.\n\n"
    return title + table(("Ray", "Python", "stock", "Mantaray"), rows)


def _cell(value: object, missing: str = "") -> str:
    return missing if value is None else str(value)


def main(arguments: Sequence[str]) -> int:
    """Write the page, or print the releases."""
    if list(arguments) == ["--releases"]:
        print("\n".join(known_releases()))
        return 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(make_page(known_releases(), read_results()))
    print(f"{PAGE.relative_to(REPOSITORY)} is made", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
