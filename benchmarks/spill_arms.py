"""Runs the spill workload as one arm of a comparison: stock Ray, or the same Ray with Mantaray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
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
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        **ARMS[arm],
    }
    with tempfile.TemporaryDirectory(prefix=f"mantaray-{arm}-", dir=base) as directory:
        done = subprocess.run(
            [sys.executable, str(WORKLOAD), directory, str(objects), str(object_bytes)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        raise SystemExit(f"the {arm} arm failed with status {done.returncode}; its words are above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
