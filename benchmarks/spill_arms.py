"""Runs the spill workload as one arm of a comparison: stock Ray, or the same Ray with Mantaray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKLOAD = Path(__file__).with_name("spill_workload.py")
ARMS = {"stock": {"MANTARAY_DISABLE": "1"}, "mantaray": {}}
TIMEOUT_S = 300


def run_arm(arm: str, objects: int, object_bytes: int, base: str | None = None) -> dict[str, Any]:
    """Run the workload in a process of its own and return what it measured.

    Args:
        arm: "stock" or "mantaray".
        objects: how many objects.
        object_bytes: the size of each.
        base: directory to make the spill directory in; the system's temporary one by default.
    """
    with tempfile.TemporaryDirectory(prefix=f"mantaray-{arm}-", dir=base) as directory:
        command = [str(WORKLOAD), directory, str(objects), str(object_bytes)]
        return run_workload(arm, command, ARMS[arm], TIMEOUT_S)


def run_workload(
    arm: str, command: Sequence[str], variables: Mapping[str, str], timeout_s: float
) -> dict[str, Any]:
    """Run a Python program and return the JSON of its last line.

    Args:
        arm: its name, for the message if it fails.
        command: the program and its arguments.
        variables: of its environment, on top of this process's.
        timeout_s: how long it may take, in seconds.

    Raises:
        SystemExit: the program failed.
    """
    done = subprocess.run(
        [sys.executable, *command],
        env={
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            **variables,
        },
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"the {arm} arm failed with status {done.returncode}; its words are above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
