"""The table that holds the planner's predictions against what was measured."""

from __future__ import annotations

import sys

import pytest

from mantaray.sim import COSTS, Plan, predict
from tests.support.rays import REPOSITORY

from .test_sync_storm_report import a_run

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import sync_plan
import sync_storm


def cell(arm: str, **changes: object) -> sync_storm.Cell:
    """Return the cell of an arm at 400 nodes."""
    return sync_storm.cell_of(a_run(400, arm) | changes)


def test_a_load_is_planned_as_it_was_measured() -> None:
    assert sync_plan.prediction(cell("direct")) == predict(Plan(400, 1.0, 0, 25.0), COSTS["2.60"])
    own = sync_plan.prediction(cell("relays-4-10ms", ray="2.48.0", hz=10.0))
    assert own == predict(Plan(400, 10.0, 4, 10.0), COSTS["2.48"])
    assert sync_plan.prediction(cell("relays-4")) == predict(Plan(400, 1.0, 4, 25.0), COSTS["2.60"])


@pytest.mark.parametrize(
    "unplanned",
    [
        cell("batching"),
        cell("relays-4-hush"),
        cell("relays-4", material_every=10),
        cell("direct", client="grpc"),
    ],
)
def test_what_the_planner_does_not_know_is_not_shown_as_predicted(
    unplanned: sync_storm.Cell,
) -> None:
    assert sync_plan.prediction(unplanned) is None


def test_cores_are_of_a_second_and_of_one_relay() -> None:
    figures = sync_storm.medians([a_run(400, "relays-4", gcs_cpu_s=5.0, relay_cpu_s=8.0)])
    planned = predict(Plan(400, 1.0, 4, 25.0), COSTS["2.60"])
    shown = sync_plan.row(cell("relays-4"), figures, planned)
    assert (shown["gcs_cores"], shown["relay_cores"]) == (0.5, 0.2)
