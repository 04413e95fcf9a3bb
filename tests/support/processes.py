"""Finding and ending processes that tests started, never by name.

Every process of a test run inherits an environment variable from pytest. Some of Ray's processes
overwrite the memory in which the kernel shows their environment (they set a title), so a process
also counts when its parent does, or when it holds a file or has its working directory below a
directory of the run.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

TAG_VARIABLE = "HARNESS_TAG"
_STOP_TIMEOUT_S = 60.0
# For processes that end by themselves, on a machine that is slow or does much else.
GONE_TIMEOUT_S = 60.0

# What the command line of a process contains: its role. The first that fits counts.
_ROLES = (
    ("gcs_server", "gcs"),
    ("/raylet/raylet", "raylet"),
    ("SpillWorker", "spill_worker"),
    ("--worker-type=SPILL_WORKER", "spill_worker"),
    ("RestoreWorker", "restore_worker"),
    ("--worker-type=RESTORE_WORKER", "restore_worker"),
    ("runtime_env/agent/main.py", "runtime_env_agent"),
    ("ray::RuntimeEnvAgent", "runtime_env_agent"),
    ("dashboard/agent.py", "dashboard_agent"),
    ("ray::DashboardAgent", "dashboard_agent"),
    ("dashboard/dashboard.py", "dashboard"),
    ("ray-dashboard", "dashboard"),
    ("log_monitor.py", "log_monitor"),
    ("autoscaler/_private/monitor.py", "monitor"),
    ("util/client/server", "client_server"),
    ("ray::", "worker"),
    ("default_worker.py", "worker"),
)


def role_of(process: psutil.Process) -> str:
    """Return what the process is in a cluster: a role of _ROLES, or "other"."""
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return "other"
    return next((role for sign, role in _ROLES if sign in line), "other")


def find(tag: str, directories: Iterable[Path] = ()) -> list[psutil.Process]:
    """Return the processes alive that carry the tag or use one of the directories, with children.

    Args:
        tag: value of TAG_VARIABLE, or its first part: "a" also finds "a.b".
        directories: a process with an open file or its working directory below one of them counts.
    """
    prefixes = tuple(f"{directory}/" for directory in directories)
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid != os.getpid() and _belongs(process, tag, prefixes):
            _add_with_children(process, found)
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _is_alive(process)]


def stop(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Kill the processes and wait; return those that are still there."""
    killed = list(processes)
    for process in killed:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(killed, timeout=_STOP_TIMEOUT_S)
    return [process for process in killed if _is_alive(process)]


def stop_all(tag: str, directories: Iterable[Path] = ()) -> list[psutil.Process]:
    """Kill everything that `find` finds, until nothing more turns up; return what stays."""
    places = list(directories)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    # A process may have started a child between our look and its end.
    while (left := find(tag, places)) and time.monotonic() < deadline:
        stop(left)
    return left


def wait_until_gone(
    tag: str, directories: Iterable[Path] = (), timeout_s: float = GONE_TIMEOUT_S
) -> list[psutil.Process]:
    """Give the processes time to end by themselves; return those that did not."""
    places = list(directories)
    deadline = time.monotonic() + timeout_s
    while (left := find(tag, places)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def describe(processes: Iterable[psutil.Process]) -> str:
    """Return one line a process, for a failure's message."""
    lines = []
    for process in processes:
        try:
            lines.append(f"  {process.pid} {role_of(process)}: {' '.join(process.cmdline())[:160]}")
        except psutil.Error:
            continue
    return "\n".join(lines)


def _belongs(process: psutil.Process, tag: str, prefixes: tuple[str, ...]) -> bool:
    try:
        value = process.environ().get(TAG_VARIABLE, "")
        if value == tag or value.startswith(f"{tag}."):
            return True
        if not prefixes:
            return False
        paths = [process.cwd() + "/", *process.cmdline(), *(f.path for f in process.open_files())]
    except (psutil.Error, OSError):
        return False
    return any(prefix in path for path in paths for prefix in prefixes)


def _add_with_children(process: psutil.Process, found: dict[int, psutil.Process]) -> None:
    found[process.pid] = process
    try:
        for child in process.children(recursive=True):
            found[child.pid] = child
    except psutil.Error:
        return


def _is_alive(process: psutil.Process) -> bool:
    # What init has not reaped yet holds nothing any more.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
