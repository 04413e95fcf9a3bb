"""The same service under load on stock Ray and on Mantaray, in turn; one table, one plot.

A run is a Ray with a small object store, the service with its real embedder, an ingest driver in a
process of its own, and 200 askers who all ask at once over HTTP: first while a crawl goes on and is
ingested, then again afterwards. The crawl keeps pages of 1 MB each (markup, scripts and pictures
around a little text) in Ray's objects and runs ahead of the ingestion by more than the object store
holds. Pages are ingested in order of importance, not of arrival, and given up as their text is
taken; one in twenty is set aside for another night and stays. "On disk" is what spilled objects
take, looked at ten times a second. "Stall" is the longest time that the service's event loop was
kept from a timer of 1 ms.

Stock is the same environment with MANTARAY_DISABLE=1. Each figure is the median of the rounds;
rounds alternate which comes first.

    python benchmarks/load.py [--quick] [--rounds N] [--pages N] [--askers N]
        [--results FILE.json [--report-only]] [--plot FILE.png] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

WORKLOAD = Path(__file__).with_name("load_workload.py")
PROJECT = Path(__file__).resolve().parents[1]
ARMS = ("stock", "mantaray")
RUN_TIMEOUT_S = 400.0


class Row(NamedTuple):
    """A line of the table: its title, the figure's name, how it is shown, and whether less is better."""

    title: str
    name: str
    show: Callable[[float], str]


def _ms(value: float) -> str:
    return f"{value:,.0f} ms"


def _mb(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"


ROWS = (
    Row("ingestion, s", "ingest_s", lambda value: f"{value:.1f}"),
    Row("pages crawled", "crawled_bytes", _mb),
    Row("on disk, at most", "disk_peak_bytes", _mb),
    Row("on disk, after ingestion", "disk_after_bytes", _mb),
    Row("of which is still referenced", "live_bytes", _mb),
    Row("answer while ingesting, p50", "busy_p50_ms", _ms),
    Row("answer while ingesting, p99", "busy_p99_ms", _ms),
    Row("answers a second while ingesting", "busy_rate", lambda value: f"{value:.1f}"),
    Row("wait in the queue while ingesting, p50", "busy_queue_p50_ms", _ms),
    Row("longest stall while ingesting", "busy_stall_ms", _ms),
    Row("answer afterwards, p50", "calm_p50_ms", _ms),
    Row("answer afterwards, p99", "calm_p99_ms", _ms),
    Row("answers a second afterwards", "calm_rate", lambda value: f"{value:.1f}"),
    Row("wait in the queue afterwards, p50", "calm_queue_p50_ms", _ms),
    Row("longest stall afterwards", "calm_stall_ms", _ms),
    Row("askers without an answer", "failed", lambda value: f"{value:.0f}"),
)


def run_arm(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the workload once in a process of its own; return its figures.

    Raises:
        SystemExit: the workload failed.
    """
    kept = {name: v for name, v in os.environ.items() if not name.startswith(("RAY_", "MANTARAY_"))}
    environment = kept | {
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{WORKLOAD.parent}",
        "PYTHONWARNINGS": "ignore",
    }
    if arm == "stock":
        environment["MANTARAY_DISABLE"] = "1"
    # A short path: Ray's sockets lie below it.
    directory = Path(tempfile.mkdtemp(prefix="kn-"))
    command = [
        sys.executable,
        str(WORKLOAD),
        str(directory),
        str(options.pages),
        str(options.askers),
    ]
    try:
        with (directory / "stderr").open("w+") as errors:
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True,
            )  # fmt: skip
            try:
                stdout, _ = process.communicate(timeout=RUN_TIMEOUT_S)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            if process.returncode != 0:
                errors.seek(0)
                raise SystemExit(f"{arm}: status {process.returncode}\n{errors.read()[-6000:]}")
        figures: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
        return figures
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each figure over the runs of one arm."""
    return {row.name: statistics.median(run[row.name] for run in runs) for row in ROWS}


def report(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table in Markdown, as the documents have it."""
    of = {arm: medians(results[arm]) for arm in ARMS}
    lines = ["| | stock | Mantaray |", "|---|---|---|"]
    for row in ROWS:
        shown = [row.show(of[arm][row.name]) for arm in ARMS]
        lines.append(f"| {row.title} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the disk over time (needs matplotlib); each line is named at its end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, disk = pyplot.subplots(figsize=(6.5, 4.2), constrained_layout=True)
    looks = {"stock": ("stock Ray", "tab:red"), "mantaray": ("Mantaray", "tab:blue")}
    for arm in ARMS:
        name, colour = looks[arm]
        for run in results[arm]:
            seconds, used = zip(*run["disk"], strict=True)
            disk.plot(seconds, [n / 1e6 for n in used], color=colour, linewidth=2)
        end = (seconds[-1], used[-1] / 1e6)
        place = {"textcoords": "offset points", "ha": "right", "color": colour, "fontsize": 12}
        disk.annotate(name, end, (0, 6), **place)
    disk.set(xlabel="seconds since the crawl began", ylabel="MB on disk")
    disk.set_title("Spilled pages stay on disk with stock Ray", loc="left")
    disk.grid(alpha=0.25)
    disk.spines[["top", "right"]].set_visible(False)
    disk.set_xlim(left=0)
    disk.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Run both arms in turn, as often as asked."""
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    if options.results is not None and options.results.exists():
        results = json.loads(options.results.read_text())
    before = len(results[ARMS[0]])
    for number in range(before, before + options.rounds):
        for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
            started = time.monotonic()
            run = run_arm(arm, options)
            results[arm].append(run)
            said = ", ".join(f"{row.title} {row.show(run[row.name])}" for row in ROWS)
            print(
                f"round {number + 1}, {arm} ({time.monotonic() - started:.0f} s): {said}",
                file=sys.stderr,
            )
    return results


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smaller crawl, one round")
    parser.add_argument("--rounds", type=int, help="of both arms (default 3, quick 1)")
    parser.add_argument("--pages", type=int, help="of 1 MB, crawled (default 800, quick 400)")
    parser.add_argument("--askers", type=int, default=200)
    parser.add_argument(
        "--results", type=Path, help="where the figures of all runs are kept; those there count too"
    )
    parser.add_argument("--report-only", action="store_true", help="of the kept figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.pages = options.pages or (400 if options.quick else 800)
    return options


def main() -> int:
    """Measure and print; return 0 if every asker got an answer."""
    options = parse_options()
    if options.report_only:
        results = json.loads(options.results.read_text())
    else:
        results = measure(options)
        if options.results is not None:
            options.results.write_text(json.dumps(results))
    if options.plot is not None:
        plot(results, options.plot)
    print(
        json.dumps({arm: medians(results[arm]) for arm in ARMS})
        if options.json
        else report(results)
    )
    return int(any(run["failed"] for runs in results.values() for run in runs))


if __name__ == "__main__":
    sys.exit(main())
