"""One arm of `whole_log.py`: a cluster, a job, its log made long, one request for it; prints JSON.

Arguments: a directory, the size of the log and what a server may hold, both in bytes.
"""

from __future__ import annotations

import glob
import http.client
import json
import socket
import sys
import threading
import time
from typing import Any

import psutil
import ray
from ray.job_submission import JobSubmissionClient

SIGNS = {
    "agent": ("dashboard/agent.py", "ray::DashboardAgent"),
    "module": ("ray-dashboard-JobHead",),
    "head": ("dashboard/dashboard.py",),
}
LINE = b"2026-01-01 00:00:00,000 INFO worker.py:42 -- a line of an ordinary log file, number 1\n"
TIMEOUT_S = 180.0


def find_servers() -> dict[str, psutil.Process]:
    """Return the processes that a request passes."""
    found: dict[str, psutil.Process] = {}
    for process in psutil.Process().children(recursive=True):
        line = " ".join(process.cmdline())
        for name, signs in SIGNS.items():
            if name == "head" and "ray-dashboard-" in line:
                continue
            if any(sign in line for sign in signs):
                found[name] = process
    return found


def held_mb(process: psutil.Process, field: str) -> float:
    """Return VmRSS (now) or VmHWM (at most) of a process in MB; 0 when it is gone."""
    try:
        with open(f"/proc/{process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1e3
    except (OSError, StopIteration):
        return 0.0


def submit(client: JobSubmissionClient) -> str:
    """Run a job to its end; return its id."""
    deadline = time.monotonic() + 90
    while True:
        try:
            job: str = client.submit_job(entrypoint="echo hello")
            break
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.1)
    return job


def write_log(path: str, size_bytes: int) -> None:
    """Make the job's log that long."""
    block = LINE * 10_000
    with open(path, "wb") as file:
        while file.tell() < size_bytes:
            file.write(block)


def guard(
    servers: dict[str, psutil.Process], limit_bytes: int, peaks: dict[str, float], reason: list[str]
) -> None:
    """Keep the peaks, and kill a server that holds too much; runs on a thread of its own."""
    deadline = time.monotonic() + TIMEOUT_S
    while not reason:
        for name, process in servers.items():
            now_mb = held_mb(process, "VmHWM:")
            peaks[name] = max(peaks[name], now_mb)
            if held_mb(process, "VmRSS:") * 1e6 > limit_bytes:
                reason.append(f"ended: the {name} held more than {limit_bytes / 1e9:.0f} GB")
                process.kill()
        if time.monotonic() > deadline:
            reason.append(f"ended after {TIMEOUT_S:.0f} s")
            for process in servers.values():
                process.kill()
        time.sleep(0.05)


def fetch(address: str, job: str) -> tuple[float | None, float | None, int]:
    """Fetch the log as curl would; return seconds to the first byte and in all, and the bytes."""
    began = time.perf_counter()
    first_s: float | None = None
    size = 0
    try:
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S + 10)
        connection.request("GET", f"/api/jobs/{job}/logs", headers={"User-Agent": "benchmark"})
        response = connection.getresponse()
        while block := response.read1(1 << 20):
            first_s = first_s or time.perf_counter() - began
            size += len(block)
        if response.status != 200:
            return None, None, 0
    except (OSError, http.client.HTTPException):
        return first_s, None, size
    return first_s, time.perf_counter() - began, size


def main() -> None:
    """Run the arm."""
    root, size_bytes, limit_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context: Any = ray.init(
        address="local",
        num_cpus=1,
        _temp_dir=f"{root}/t",
        include_dashboard=True,
        dashboard_port=port,
    )
    job = submit(JobSubmissionClient(f"http://{context.dashboard_url}"))
    (log,) = glob.glob(f"{root}/t/session_2*/logs/job-driver-{job}.log")
    write_log(log, size_bytes)
    servers = find_servers()
    before = {}
    for name, process in servers.items():
        with open(f"/proc/{process.pid}/clear_refs", "w") as file:
            file.write("5")
        before[name] = held_mb(process, "VmRSS:")
    peaks, reason = dict(before), list[str]()
    thread = threading.Thread(target=guard, args=(servers, limit_bytes, peaks, reason), daemon=True)
    thread.start()
    first_s, total_s, size = fetch(context.dashboard_url, job)
    whole = total_s is not None and size > size_bytes
    if not reason:
        reason.append("whole" if whole else f"broke off after {size / 1e9:.1f} GB")
    thread.join()
    figures = {
        "outcome": reason[0],
        "first_byte_s": first_s,
        "total_s": total_s if whole else None,
        "held_mb": {name: peaks[name] - before[name] for name in SIGNS},
    }
    ray.shutdown()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
