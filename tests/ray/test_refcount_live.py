"""The patch `refcount` on real clusters: a second notice about one borrower does not end the owner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import RayEnv, find_ray

RACE = Path(__file__).parent / "programs" / "refcount_race.py"
STOCK = {"MANTARAY_PATCHES": "-refcount"}
ENDED = "it->second.mutable_borrow()->borrowers.erase(borrower_addr)"
# From here on Ray's own counter takes a second notice.
NATIVE = ("2.60.0",)


def _assert_survived(ended: Any) -> None:
    assert ended["status"] == 0, ended
    told = ended["told"]
    for order in ("removed-twice", "failed-then-removed", "removed-then-failed"):
        seen = told[order]
        assert all(seen.values()), (order, seen)
    assert told["empty"], told["left"]


def _stock(env: RayEnv) -> Any:
    # A node whose driver dies takes a while to end.
    return env.run(RACE, ["doubled"], STOCK, left_timeout_s=180.0).told


def _assert_ended(ended: Any) -> None:
    assert ended["status"] != 0
    assert ENDED in ended["check"]


@pytest.mark.parametrize("version", ["2.48.0", pytest.param("2.60.0", marks=pytest.mark.slow)])
def test_second_notice_leaves_the_owner_alive_and_its_counts_right(version: str) -> None:
    ended = find_ray(version).run_program(RACE, ["doubled"])
    _assert_survived(ended)
    guard = ended["told"]["guard"]
    if version in NATIVE:
        assert (ended["told"]["patch"], guard["attached"]) == ("native", False)
        return
    assert ended["told"]["patch"] == "active"
    # Three orders, two borrowers each, one further notice for each.
    assert (guard["waiting"], guard["first_notices"]) == (0, 6 + ended["told"]["others"])
    assert (guard["repeated_ref_removed"], guard["repeated_publisher_failed"]) == (4, 2)
    # A late message is merged only if its object lives: not for the last borrower.
    assert guard["merged_late"] == 2
    assert "first came" in ended["notices"][0]


@pytest.mark.slow
def test_second_notice_ends_stock_ray() -> None:
    # What the test above is good for: without the patch, an affected Ray does not live through it.
    _assert_ended(_stock(find_ray("2.48.0")))


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.48.0", "2.52.1", "2.55.1"])
def test_borrower_that_lets_go_and_is_killed_ends_stock_ray_alone(version: str) -> None:
    # Nothing of Ray's is replaced: the message is handled late, and the borrower is dead by then.
    env = find_ray(version)
    ended = env.run(RACE, ["delayed", "20"], STOCK, left_timeout_s=180.0).told
    _assert_ended(ended)
    ended = env.run_program(RACE, ["delayed", "5"])
    assert ended["status"] == 0, ended
    told = ended["told"]
    assert (told["patch"], told["wrong"], told["left"]) == ("active", [], {})
    assert told["forked"]
    assert told["guard"]["repeated_ref_removed"] > 0
    assert told["guard"]["waiting"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.48.0", "2.52.1", "2.55.1"])
def test_borrowers_killed_on_a_busy_machine_leave_the_owner_alive(version: str) -> None:
    ended = find_ray(version).run_program(RACE, ["killed", "15"], timeout_s=300.0)
    assert ended["status"] == 0, ended
    told = ended["told"]
    assert (told["patch"], told["gone"], told["empty"]) == ("active", True, True)
    assert told["guard"]["waiting"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.52.1", "2.55.1"])
def test_second_notice_on_the_other_affected_releases(version: str) -> None:
    env = find_ray(version)
    _assert_ended(_stock(env))
    _assert_survived(env.run_program(RACE, ["doubled"]))
