"""How the benchmark of pauses names the cause of a stall."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def gc_pause() -> Any:
    """The benchmark, which lies in no package."""
    directory = str(Path(__file__).resolve().parents[3] / "benchmarks")
    sys.path.insert(0, directory)
    try:
        return importlib.import_module("gc_pause")
    finally:
        sys.path.remove(directory)


def run_with(**seen: list[Any]) -> dict[str, Any]:
    """Return a run in which only this was seen."""
    return {"collections": [], "machine": [], "searches": [], **seen}


def test_stall_is_named_after_the_collection_that_overlaps_it_most(gc_pause: Any) -> None:
    run = run_with(
        collections=[(0.0, 0.35, 0.35, "Ray asked"), (0.9, 1.0, 0.1, "Python")],
        machine=[(0.0, 0.3)],
    )
    assert gc_pause.cause_of((0.0, 0.36), run) == "Ray asked"
    assert gc_pause.cause_of((0.89, 1.01), run) == "Python"
    assert gc_pause.cause_of((0.5, 0.6), run) == "no collection"


def test_collection_that_only_waited_for_a_core_is_not_the_cause(gc_pause: Any) -> None:
    run = run_with(collections=[(0.0, 0.3, 0.0002, "Python")], machine=[(0.05, 0.3)])
    assert gc_pause.cause_of((0.0, 0.3), run) == "machine"


def test_long_collection_on_a_busy_machine_is_still_the_cause(gc_pause: Any) -> None:
    run = run_with(collections=[(0.0, 3.0, 0.4, "Ray asked")], machine=[(0.0, 3.0)])
    assert gc_pause.cause_of((0.0, 3.0), run) == "Ray asked"


def test_innermost_of_two_collections_is_told(gc_pause: Any) -> None:
    both = [(0.0, 0.02, 0.02, "young"), (0.0001, 0.0199, 0.02, "Python, generation 2")]
    assert gc_pause.cause_of((0.0, 0.0198), run_with(collections=both)) == "Python, generation 2"


def test_stall_beside_a_search_is_told_apart(gc_pause: Any) -> None:
    run = run_with(searches=[(0.0, 2.0)])
    assert gc_pause.cause_of((1.0, 1.1), run) == "no collection, beside a search"
    assert gc_pause.cause_of((3.0, 3.1), run) == "no collection"


def test_stalls_of_the_machine_are_shown_and_miss_no_target(gc_pause: Any) -> None:
    run = run_with(stalls=[(0.0, 0.2), (1.0, 1.006)], machine=[(0.0, 0.2)])
    told = gc_pause.summary({**run, "p999_ms": 1.0, "longest_ms": 200.0})
    assert told["stalls"] == 2
    assert told["causes"]["machine"][0] == 1
    assert told["longest_counted_ms"] == pytest.approx(6)
