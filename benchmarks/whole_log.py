"""A whole job log of 5 GB through Ray's job API: stock Ray and Mantaray in turn, on both Rays.

The client reads and discards. Measured: time to the first byte of the log, time in all, and what the agent,
the head and the head's job module hold at most above what they held before. Stock Ray holds the log several
times over: an arm ends when one server holds more than --limit-gb, and its row says so.

    python benchmarks/whole_log.py [--quick] [--json] [--gb N] [--limit-gb N] [--rays ...] [--arms ...]
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.cluster import Cluster
from tests.support.job_logs import memory_mb, run_job, servers, watch_memory
from tests.support.rays import VERSIONS, find_ray

ARMS = {"stock": {"MANTARAY_DISABLE": "1"}, "mantaray": {}}
SERVERS = ("agent", "module", "head")
TARGET_MB = 20
TIMEOUT_S = 150.0
LINE = b"2026-01-01 00:00:00,000 INFO worker.py:42 -- a line of an ordinary log file, number 1\n"


class Guard(threading.Thread):
    """Keeps what each server holds at most, and kills one that holds too much."""

    def __init__(self, processes: dict[str, psutil.Process], limit_bytes: float) -> None:
        super().__init__(daemon=True)
        self._processes = processes
        self._limit_bytes = limit_bytes
        self._before_mb = {name: watch_memory(each) for name, each in processes.items()}
        self._at_most_mb = dict(self._before_mb)
        self._over = threading.Event()
        self.outcome: str | None = None

    def run(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not self._over.wait(0.05):
            self._look()
            if time.monotonic() > deadline:
                self._end(f"ended after {TIMEOUT_S:.0f} s", list(self._processes.values()))
                return

    def _look(self) -> None:
        for name, process in self._processes.items():
            self._at_most_mb[name] = max(self._at_most_mb[name], memory_mb(process, "VmHWM"))
            if self.outcome is None and memory_mb(process, "VmRSS") * 1e6 > self._limit_bytes:
                limit_gb = self._limit_bytes / 1e9
                self._end(f"ended: the {name} held more than {limit_gb:.0f} GB", [process])

    def _end(self, why: str, processes: list[psutil.Process]) -> None:
        self.outcome = why
        for process in processes:
            process.kill()

    def held_mb(self) -> dict[str, float]:
        """Stop; return what each server held at most above what it held before."""
        self._over.set()
        self.join()
        self._look()
        return {name: round(self._at_most_mb[name] - self._before_mb[name], 1) for name in SERVERS}


def fetch(address: str, job: str) -> tuple[float | None, float | None, int]:
    """Fetch the log as curl would; return seconds to the first byte and in all, and the bytes."""
    began = time.perf_counter()
    first_s: float | None = None
    size = 0
    try:
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S + 10)
        connection.request("GET", f"/api/jobs/{job}/logs", headers={"User-Agent": "benchmark"})
        response = connection.getresponse()
        if response.status != 200:
            return None, None, 0
        while block := response.read1(1 << 20):
            first_s = first_s or time.perf_counter() - began
            size += len(block)
    except (OSError, http.client.HTTPException):
        return first_s, None, size
    return first_s, time.perf_counter() - began, size


def measure(ray: str, arm: str, size_gb: float, limit_gb: float) -> dict[str, Any]:
    """Fetch the log once in a cluster of its own; return the figures."""
    with Cluster(find_ray(ray), num_cpus=1, dashboard=True, variables=ARMS[arm]) as cluster:
        job, log = run_job(cluster)
        with open(log, "wb") as file:
            while file.tell() < size_gb * 1e9:
                file.write(LINE * 10_000)
        guard = Guard(servers(cluster), limit_gb * 1e9)
        guard.start()
        first_s, total_s, size_bytes = fetch(cluster.dashboard_url.partition("//")[2], job)
        held_mb = guard.held_mb()
    whole = total_s is not None and size_bytes > size_gb * 1e9
    return {
        "outcome": guard.outcome or ("whole" if whole else f"broken off at {size_bytes} bytes"),
        "first_byte_s": first_s,
        "total_s": total_s if whole else None,
        "held_mb": held_mb,
    }


def row(ray: str, arm: str, figures: dict[str, Any]) -> str:
    """Return one line of the table."""
    times = [figures[name] for name in ("first_byte_s", "total_s")]
    cells = ["-" if value is None else f"{value:.1f}" for value in times]
    cells += [f"{figures['held_mb'][server]:,.0f}" for server in SERVERS]
    line = "".join(f"{cell:>13}" for cell in cells)
    return f"{ray:<9}{arm:<10}{line}  {figures['outcome']}"


def main() -> int:
    """Measure, print, and return 0 only if Mantaray stays below its target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a log of 200 MB")
    parser.add_argument("--gb", type=float, default=5.0)
    parser.add_argument("--limit-gb", type=float, default=12.0)
    parser.add_argument("--rays", default=",".join(VERSIONS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    size_gb = 0.2 if options.quick else options.gb
    if not options.json:
        head = ("first byte s", "total s", *(f"{server} MB" for server in SERVERS))
        print(f"a log of {size_gb} GB; MB held at most above what was held before")
        print(f"{'Ray':<9}{'':<10}" + "".join(f"{cell:>13}" for cell in head))
    told: dict[str, dict[str, Any]] = {}
    met = True
    for ray in options.rays.split(","):
        told[ray] = {}
        for arm in options.arms.split(","):
            seen = told[ray][arm] = measure(ray, arm, size_gb, options.limit_gb)
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
