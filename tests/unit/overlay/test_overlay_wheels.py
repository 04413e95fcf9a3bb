"""Official wheels at hand are what the table of known Rays says, and nothing is refused on them.

MANTARAY_TEST_WHEELS names a directory of official wheels of Ray. Without it there is nothing to look
at, and the live tests ask the doctor about the releases that they run with.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mantaray.overlay.doctor import diagnose_wheel
from mantaray.overlay.patch import State

VARIABLE = "MANTARAY_TEST_WHEELS"
WHEELS = sorted(Path(os.environ.get(VARIABLE, "/nowhere")).glob("ray-2.*.whl"))


@pytest.mark.skipif(not WHEELS, reason=f"{VARIABLE} names no directory with wheels of Ray")
@pytest.mark.parametrize("path", WHEELS, ids=lambda path: path.name.split("-")[1])
def test_nothing_is_refused_on_an_official_wheel(path: Path) -> None:
    diagnosis = diagnose_wheel(path)
    assert diagnosis.problem is None
    for patch in diagnosis.patches:
        assert patch.status.state in (State.ARMED, State.NATIVE), patch.status
        for finding in patch.findings if patch.status.state is State.ARMED else ():
            # Compared in full here; a process that starts trusts the digest of the file.
            assert finding.problem is None
            assert finding.trusted, finding
