"""The servers that a request for a job's log passes, and a job whose log can be made long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from .cluster import Cluster

_SUBMIT = """
import json, sys, time
from ray.job_submission import JobSubmissionClient
client, deadline = JobSubmissionClient(sys.argv[1]), time.monotonic() + 240
while True:
    try:
        job = client.submit_job(entrypoint="echo hello")
        break
    except RuntimeError as error:
        # The node's agent is not there yet to take it.
        if "No available agent" not in str(error) or time.monotonic() > deadline:
            raise
        time.sleep(0.5)
while not client.get_job_status(job).is_terminal():
    time.sleep(0.05)
print(json.dumps(job))
"""


def servers(cluster: Cluster) -> dict[str, psutil.Process]:
    """Return the agent, the head and the head's job module ("module") of a cluster of one node."""
    found = {"agent": cluster.processes("dashboard_agent")[0]}
    for process in cluster.processes("dashboard"):
        line = " ".join(process.cmdline())
        if "ray-dashboard-JobHead" in line:
            found["module"] = process
        elif "ray-dashboard-" not in line and "dashboard.py" in line:
            found["head"] = process
    return found


def run_job(cluster: Cluster) -> tuple[str, Path]:
    """Run a job to its end; return its id and where its log is."""
    job: Any = cluster.run_program(_SUBMIT, [cluster.dashboard_url])
    (log,) = cluster.root.glob(f"t/session_2*/logs/job-driver-{job}.log")
    return job, log


def watch_memory(process: psutil.Process) -> float:
    """Forget the most that a process has held so far; return what it holds now, in MB."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return memory_mb(process, "VmRSS")


def memory_mb(process: psutil.Process, field: str) -> float:
    """Return VmRSS (now) or VmHWM (at most) of a process in MB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith(field)), 0.0)
