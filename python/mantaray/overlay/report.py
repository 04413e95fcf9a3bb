"""Reports of the states of the patches in each process, if MANTARAY_REPORT_DIR is set.

Each process that imports Ray writes `<pid>.json` there whenever a state changes. It shows the state
of processes that have no other way to report, such as IO workers, the dashboard and agents.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from mantaray.overlay.patch import PatchStatus


def write_report(directory: str, ray_version: str | None, patches: Iterable[PatchStatus]) -> None:
    """Write or replace the report of this process; a reader never sees half of one.

    Args:
        directory: of the reports; it is made if it does not exist.
        ray_version: the version of Ray; None if there is none.
        patches: the states to report.

    Raises:
        OSError: the directory cannot be made or written to.
    """
    report = {
        "pid": os.getpid(),
        "argv": sys.orig_argv,
        "ray_version": ray_version,
        "patches": {
            patch.name: {"state": patch.state.value, "why": patch.why} for patch in patches
        },
    }
    os.makedirs(directory, exist_ok=True)
    path = Path(directory, f"{os.getpid()}.json")
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(path)
