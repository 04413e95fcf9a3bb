"""What the smoke makes of what it saw: each patch that did not do its work, or was refused, fails."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests.support.smoke import WORKS, Arm, judge
from tests.support.smoke_nodes import Ending

DRIVER = {
    "mantaray": True,
    "nodes": 2,
    "spill": {
        "peak_bytes": 2e8,
        "disk_over_live": 1.0,
        "intact": True,
        "from_files": 12,
        "left_bytes": 0,
    },
    "gc": {"released": True, "longest_stall_ms": 3.0, "collections": 3},
    "finalize": {"early": False, "came": True, "calls": 1},
    "serve": {"time_over_ideal": 1.1, "answered": True, "in_order": True, "routers": 1},
    "at_shutdown": ["at shutdown"],
}
LIVED = Ending(True, True, "lived")
DIED = Ending(False, False, "died")
JOBS = {
    "memory_mb": 90,
    "jobs": {
        "endless": {"status": "FAILED", "chars": 20_100, "end": "xy"},
        "bars": {"end": "start\n19999 of 20000"},
    },
}


def arm(**changes: Any) -> Arm:
    """Return an arm of ours on which everything worked, or what differs from it."""
    states = dict.fromkeys(WORKS, ("active", "attached"))
    good = Arm(
        driver=copy.deepcopy(DRIVER),
        jobs=copy.deepcopy(JOBS),
        whole_log=(True, 5.0),
        traceback=(200, True),
        page="<html>mantaray</html>",
        carried=2,
        version="ray, version 2.48.0",
        grace_period_s="0",
        has_old_log=False,
        doctor=(0, 4),
        notices=LIVED,
        released=LIVED,
        reports=[states],
    )
    return replace(good, **changes)


STOCK = arm(
    page="<html></html>",
    traceback=(500, False),
    carried=None,
    grace_period_s=None,
    has_old_log=True,
    doctor=None,
    notices=DIED,
    released=DIED,
)


def changed(part: str, name: str, value: Any) -> Arm:
    """Return an arm of which one figure of the driver is another."""
    driver = copy.deepcopy(DRIVER)
    driver[part][name] = value  # type: ignore[index]
    return arm(driver=driver)


FAILURES = [
    ("spill", changed("spill", "disk_over_live", 8.0)),
    ("spill", changed("spill", "intact", False)),
    ("spill", changed("spill", "peak_bytes", 0)),
    ("spill", changed("spill", "left_bytes", 1)),
    ("direct", changed("spill", "from_files", 0)),
    ("direct", changed("spill", "intact", False)),
    ("router", changed("serve", "routers", 0)),
    ("router", changed("serve", "answered", False)),
    ("slots", changed("serve", "in_order", False)),
    ("gc", changed("gc", "collections", 0)),
    ("gc", changed("gc", "released", False)),
    ("refs", changed("finalize", "early", True)),
    ("refs", changed("finalize", "calls", 2)),
    ("refs", arm(driver=DRIVER | {"at_shutdown": []})),
    ("relay", arm(carried=1)),
    ("relay", arm(driver=DRIVER | {"nodes": 1})),
    ("profiling", arm(traceback=(500, False))),
    ("profiling", arm(traceback=(200, False))),
    ("pagelinks", arm(page="<html>other</html>")),
    ("logs", arm(jobs=JOBS | {"memory_mb": 900})),
    ("joblogs", arm(whole_log=(False, 5.0))),
    ("joblogs", arm(whole_log=(True, 200.0))),
    ("knobs", arm(grace_period_s=None)),
    ("knobs", arm(grace_period_s="2")),
    ("retention", arm(has_old_log=True)),
    ("states", arm(doctor=(1, 4))),
    ("states", arm(doctor=(0, 1))),
    ("refcount", arm(notices=DIED)),
    ("refcount", arm(notices=Ending(True, False, "lived with wrong counts"))),
    ("nesting", arm(released=DIED)),
    ("nesting", arm(released=Ending(True, False, "lived with wrong counts"))),
    ("version", arm(version="ray, version 2.48.0+mantaray")),
]


def test_everything_that_worked_is_ok() -> None:
    for name in WORKS:
        assert judge(name, ("active", ""), arm(), STOCK).ok, name


@pytest.mark.parametrize(("name", "ours"), FAILURES)
def test_a_patch_that_did_not_do_its_work_fails_alone(name: str, ours: Arm) -> None:
    assert not judge(name, ("active", ""), ours, STOCK).ok


def test_every_patch_with_work_can_fail() -> None:
    assert {name for name, _ in FAILURES} == set(WORKS)


@pytest.mark.parametrize("name", WORKS)
def test_a_refusal_in_the_environment_or_in_one_process_fails(name: str) -> None:
    assert not judge(name, ("refused", "not what it was"), arm(), STOCK).ok
    states = arm().reports[0]
    reports = [states, states | {name: ("refused", "in a worker")}]
    outcome = judge(name, ("active", ""), arm(reports=reports), STOCK)
    assert (outcome.ok, outcome.state, outcome.why) == (False, "refused", "in a worker")


def test_a_patch_that_was_attached_in_no_process_fails_unless_rays_own_is_enough() -> None:
    reports = [{"gc": ("armed", "waits")}]
    assert not judge("gc", ("active", ""), arm(reports=reports), STOCK).ok
    assert judge("gc", ("native", ""), arm(reports=reports), STOCK).ok


def test_a_patch_without_work_is_held_to_its_state() -> None:
    reports = [{"new": ("active", "attached")}]
    assert judge("new", ("active", ""), arm(reports=reports), STOCK).ok
    assert not judge("new", ("active", ""), arm(), STOCK).ok
