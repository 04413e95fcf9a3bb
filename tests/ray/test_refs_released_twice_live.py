"""The patch `nesting` on real clusters: an outer object that goes out of scope twice (ray #57985)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rays import find_ray

PROGRAM = Path(__file__).parent / "programs" / "refs_released_twice.py"
STOCK = {"MANTARAY_PATCHES": "-nesting"}
CHECK = "contained_in_borrowed_ids.erase(id)"
OLD = pytest.param("2.48.0", marks=pytest.mark.slow)
LATE = pytest.param("late-question", marks=pytest.mark.slow)


@pytest.mark.parametrize("way", ["borrowed-again", LATE])
@pytest.mark.parametrize("version", ["2.60.0", OLD])
def test_outer_object_released_twice_leaves_the_borrower_alive(version: str, way: str) -> None:
    told = find_ray(version).run_program(PROGRAM, [way])
    assert (told["patch"], told["died"]) == ("active", False)
    assert (told["read"], told["gone"], told["metric"]) == (True, True, True)
    borrower = told["borrower"]
    assert borrower["left"] == 0
    assert borrower["guard"]["attached"]
    assert borrower["guard"]["repeated_releases"] >= 1
    assert borrower["guard"]["kept_outer_objects"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["borrowed-again", "late-question"])
@pytest.mark.parametrize("version", ["2.48.0", "2.60.0"])
def test_outer_object_released_twice_ends_the_borrower_of_stock_ray(version: str, way: str) -> None:
    # What the test above is good for.
    done = find_ray(version).run(PROGRAM, [way], STOCK)
    assert done.told["died"]
    assert CHECK in done.stdout + done.stderr
