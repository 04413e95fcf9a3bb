"""Writes the result files of the relay's benchmarks from the kept runs. Nothing is measured here.

python benchmarks/sync_figures.py [DIRECTORY]     the default is docs/results/figures
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import results
import sync_arms
import sync_groups
import sync_plan
import sync_storm

RUNS = sync_arms.REPOSITORY / "benchmarks" / "results"
PAGES = sync_arms.REPOSITORY / "docs" / "results" / "figures"
MACHINE = "two cores (x86-64, virtual), 24 GB of memory"
STORM = (
    "CPU seconds are of 10 s; views are waited for 15 s more, bursts for 30 s; two cores; "
    "a window of 25 ms; upstream's batching of 1,000 messages or 50 ms; 50 to 1,600 nodes; "
    "1 or 10 views a second; a relay waits 2 s for the dialect; n(n-1) messages a round: "
    "0.64 million a second at 800 nodes (640,000), 1.6 million at 400 nodes with ten views a second, "
    "2.6 million at 1,600 nodes"
)
# Read from these and from earlier runs, which were not kept.
FROM_OTHER_SITTINGS = {
    "the GCS sends, million messages a second": 0.6,
    "800 nodes, 2.60.0, direct: p99 s, this sitting": "1.0 to 1.4",
    "800 nodes, 2.60.0, direct: p99 s, other sittings": "0.2 to 2.6",
    "1,200 nodes, direct: p99 s": {"above": 19},
    "400 nodes, 2.60.0, ten views a second, relays: p99 s": 0.12,
    "400 nodes, 2.60.0, ten views a second, direct: p99 s": {"above": 18},
    "800 nodes, 2.60.0, ten views a second: p99 s": "2.1 behind relays, over 24.9 direct",
    "1,600 nodes behind relays: p99 s": 2.8,
    "a million writes to nodes of 2.48, CPU s of relays": 3.3,
    "the light client, CPU s for 640,000 messages a second": 1.41,
}
RUNS_OF = "medians over the runs of each row, as many as its last column says"


def made(runs: Sequence[dict[str, Any]], path: Path) -> dict[str, str]:
    """Return when, at which commits and from which file the figures of some runs were made."""
    days = sorted({run["at"][:10] for run in runs})
    with_calls = any(run.get("workers") for run in runs)
    return {
        "machine": MACHINE,
        "date": " to ".join(sorted({days[0], days[-1]})),
        "commit": ", ".join(sorted({run["commit"] for run in runs})),
        "version": "0.1.0" + ("; with calls 0.2.0 (unreleased)" if with_calls else ""),
        "source": str(path.relative_to(sync_arms.REPOSITORY)),
    }


def main(arguments: Sequence[str]) -> None:
    """Write the files."""
    directory = Path(arguments[0]) if arguments else PAGES
    storm, groups = RUNS / "sync_storm.jsonl", RUNS / "sync_groups.jsonl"
    storm_runs, group_runs = sync_arms.load_runs(storm), sync_arms.load_runs(groups)
    cells = sync_storm.summarise(storm_runs)
    results.write(
        directory / "sync-storm.json",
        benchmark="benchmarks/sync_storm.py",
        conditions=STORM,
        runs=RUNS_OF,
        figures=FROM_OTHER_SITTINGS
        | {
            f"{'-'.join(map(str, cell[4:]))}-{sync_storm.key_of(*cell[:4])}.p99_ms": sync_storm.bounded(
                figures, "staleness_p99_ms"
            )
            for cell, figures in cells.items()
        },
        tables=sync_storm.tables(cells),
        made=made(storm_runs, storm),
    )
    results.write(
        directory / "sync-groups.json",
        benchmark="benchmarks/sync_groups.py",
        conditions="a head and three raylets; 400 simulated nodes publish a view a second",
        runs=RUNS_OF,
        tables=sync_groups.tables(sync_groups.summarise(group_runs)),
        made=made(group_runs, groups),
    )
    results.write(
        directory / "sync-plan.json",
        benchmark="benchmarks/sync_plan.py",
        conditions="the loads of sync_storm.py; cores and milliseconds",
        runs=RUNS_OF,
        tables={"real": sync_plan.table(sync_plan.compared(storm))},
        made=made([run for run in storm_runs if not run.get("workers")], storm),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
