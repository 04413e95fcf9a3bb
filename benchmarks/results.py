"""The file in which a benchmark keeps what it measured; README and docs are filled from it.

Every benchmark prints its figures with --json. This keeps them, with machine, date and commit:

python benchmarks/gc_pause.py --json | python benchmarks/results.py docs/results/figures/gc-pause.json \\
    --benchmark "benchmarks/gc_pause.py" --runs "one" --conditions "an actor with 3 million containers"
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
# The titles of the columns, and the rows.
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def machine() -> str:
    """Return what this machine is, in one line."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} CPUs ({platform.machine()}), {memory_gb:.0f} GB of memory"


def commit() -> str:
    """Return the commit of this tree, with "-dirty" behind it if files differ; empty outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    described = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return described.stdout.strip()


def write(
    path: Path,
    *,
    benchmark: str,
    conditions: str,
    runs: str,
    figures: Mapping[str, object] | None = None,
    tables: Mapping[str, Table] | None = None,
    made: Mapping[str, str] | None = None,
) -> None:
    """Write a result file.

    Args:
        path: of the file; its stem is the name by which pages refer to it.
        benchmark: the command.
        conditions: the numbers that describe the workload, in words.
        runs: how many there were, and what the figures are of them.
        figures: each figure by its key: a number, a text, or {"above": number} if it was cut off.
        tables: each table by its key.
        made: machine, date, commit and source, if the runs are not of now and here.
    """
    content: dict[str, Any] = {
        "benchmark": benchmark,
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "version": None,
        "runs": runs,
        "source": "The benchmark wrote this file.",
        "conditions": conditions,
        **(made or {}),
    }
    if figures:
        content["figures"] = dict(figures)
    if tables:
        content["tables"] = {
            key: {"head": list(head), "rows": [list(row) for row in rows]}
            for key, (head, rows) in tables.items()
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def flattened(printed: object, key: str = "") -> Iterator[tuple[str, int | float | str]]:
    """Yield each figure of what a benchmark printed, by the names of the places that lead to it."""
    if isinstance(printed, Mapping | list):
        items = printed.items() if isinstance(printed, Mapping) else enumerate(printed)
        for name, value in items:
            yield from flattened(value, f"{key}.{name}" if key else str(name))
    elif isinstance(printed, int | float | str) and not isinstance(printed, bool):
        yield key, printed


def main() -> None:
    """Keep the figures that come on standard input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path)
    for name in ("benchmark", "runs", "conditions"):
        parser.add_argument(f"--{name}", required=True)
    options = vars(parser.parse_args())
    write(options.pop("file"), figures=dict(flattened(json.load(sys.stdin))), **options)


if __name__ == "__main__":
    main()
