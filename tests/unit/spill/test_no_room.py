"""A full disk is said in one line, not in a traceback many times a second."""

from __future__ import annotations

import logging

import pytest
from mantaray._native import spill

from mantaray.spill import no_room

TRACEBACK = (
    'Traceback (most recent call last):\n  File "x.py", line 1, in spill\n'
    "mantaray._native.spill.SpillNoSpaceError: no spill directory can take it: /a has 1 byte free\n"
    "An unexpected internal error occurred: no spill directory can take it: /a has 1 byte free"
)


def test_drivers_get_one_line_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_room, "_last_pushed_s", -no_room.REPEAT_S)
    line = "no spill directory can take it: /a has 1 byte free."
    assert no_room.for_drivers(TRACEBACK) == line
    assert no_room.for_drivers(TRACEBACK) is None
    monkeypatch.setattr(no_room, "_last_pushed_s", no_room._last_pushed_s - no_room.REPEAT_S)
    assert no_room.for_drivers(TRACEBACK) == line


def test_other_messages_pass_as_they_are() -> None:
    assert (
        no_room.for_drivers("Traceback: SpillDamageError: bad")
        == "Traceback: SpillDamageError: bad"
    )


def test_only_tracebacks_of_a_full_disk_stay_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    no_room.quieten_rays_log()
    log = logging.getLogger("ray._raylet")
    for error in (spill.SpillNoSpaceError("full"), spill.SpillDamageError("bad")):
        try:
            raise error
        except Exception:
            log.exception("caught")
    log.error("plain")
    assert [record.getMessage() for record in caplog.records] == ["caught", "plain"]
    assert "SpillDamageError" in caplog.text
