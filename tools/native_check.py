"""Attaches everything native to a compiled library of Ray: are its slots and layouts as expected?

`tools/adopt_ray` runs it as a program, in a process of its own for each library, because an unexpected
library could end the process:

    python -m tools.native_check LIBRARY

It prints one JSON object: each feature, and why it was refused, or null. No Ray runs for it. The dynamic
loader binds the library as it does for Python, and the self-checks call functions of the library.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MEMBER = "ray/_raylet.so"
# The patches that change compiled code, and what else of Mantaray calls it.
PATCHES = ("refcount", "nesting")
FINALIZERS = "finalizers"
_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 120


class NativeCheckError(Exception):
    """Why a library cannot be checked, in one sentence."""


def check(library: Path) -> dict[str, str | None]:
    """Check a library in a process of its own.

    Args:
        library: `_raylet.so` of a release.

    Returns:
        By the names of the native patches and FINALIZERS: why it was refused, None if it was attached.

    Raises:
        NativeCheckError: the library cannot be loaded here, or the process ended.
    """
    command = [sys.executable, "-m", "tools.native_check", str(library)]
    # The Mantaray of this environment, which has the native module; the sources have none.
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise NativeCheckError(f"the check ended with status {done.returncode}: {last}")
    told: dict[str, str | None] = json.loads(done.stdout)
    return told


def _attach_all(library: str) -> dict[str, str | None]:
    from mantaray._native import interpose

    features: dict[str, Callable[[str], object]] = {
        "refcount": interpose.attach_refcount_guard,
        "nesting": interpose.attach_nesting_guard,
        FINALIZERS: interpose.scope_watch,
    }
    return {name: _refusal(attach, library) for name, attach in features.items()}


def _refusal(attach: Callable[[str], object], library: str) -> str | None:
    try:
        attach(library)
    except RuntimeError as error:
        return str(error)
    return None


def main() -> None:
    """Load the library that the command line names, attach everything, and print what was refused."""
    library = str(Path(sys.argv[1]).resolve())
    try:
        ctypes.CDLL(library)
    except OSError as error:
        sys.exit(str(error))
    print(json.dumps(_attach_all(library)))


if __name__ == "__main__":
    main()
