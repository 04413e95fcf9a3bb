"""The environments with Ray and Mantaray beside it, and programs that run in them and tell figures."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).resolve().parents[1] / ".venvs"
RAYS = ("2.48.0", "2.60.0")
_TIMEOUT_S = 300


def ray_environment(ray: str, **extra: str) -> dict[str, str]:
    """Return the environment of a process of this Ray: nothing of the caller's Ray reaches in."""
    unwanted = ("RAY_", "MANTARAY_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    commands = ENVIRONMENTS / f"ray-{ray}" / "bin"
    path = f"{commands}{os.pathsep}{kept.get('PATH', os.defpath)}"
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    return kept | quiet | {"PATH": path} | extra


def figures_of(
    ray: str,
    command: Sequence[str | Path],
    variables: Mapping[str, str],
    timeout_s: float = _TIMEOUT_S,
) -> Any:
    """Run a program in a process of its own; return the JSON of its last line.

    Args:
        ray: the release with which it runs.
        command: the program and its arguments.
        variables: on top of `ray_environment`; they say which arm it is.
        timeout_s: how long it may take, in seconds.

    Raises:
        SystemExit: it failed; with what it wrote to stderr.
    """
    done = subprocess.run(
        [ENVIRONMENTS / f"ray-{ray}" / "bin" / "python", *command],
        env=ray_environment(ray, **variables),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        arm = " ".join(f"{name}={value}" for name, value in variables.items()) or "Mantaray"
        raise SystemExit(f"{arm} on Ray {ray} failed ({done.returncode}):\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])
