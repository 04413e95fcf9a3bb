"""The explorer through its binding and its command: bounded runs, planted bugs, exact replay."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner
from mantaray._native import sim
from mantaray.cli.main import main

WORLD: dict[str, Any] = {"processes": 4, "steps": 30}


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["refs", *arguments])
    return done.exit_code, done.output


def test_protocol_holds_in_random_worlds() -> None:
    explored = sim.explore(first_seed=1_000_000, seeds=2_000, threads=2, **WORLD)
    assert explored["failing_seed"] is None, explored["what"]
    assert explored["worlds"] == 2_000


def test_upstream_race_is_found_shrunk_and_replayed_exactly() -> None:
    found = sim.explore(first_seed=0, seeds=5_000, bug="second-notice-fatal", **WORLD)
    assert found["violation"] == "an operation failed"
    seed = found["failing_seed"]
    once, again = (sim.replay(seed, bug="second-notice-fatal", **WORLD) for _ in range(2))
    assert once == again
    assert "check failed" in once["what"]
    assert once["steps"] <= 5
    assert once["diagram"].startswith("sequenceDiagram")
    assert sim.replay(seed, **WORLD)["violation"] is None


def test_at_least_twelve_bugs_can_be_planted() -> None:
    status, output = run("bugs")
    assert status == 0
    assert len(sim.BUGS) >= 12
    assert all(name in output for name in sim.BUGS)


def test_command_shows_how_many_worlds_held() -> None:
    status, output = run("explore", "--seeds", "200")
    assert status == 0
    assert "200 worlds" in output
    assert "no violation" in output


def test_command_prints_trace_diagram_and_how_to_see_it_again() -> None:
    status, output = run("explore", "--bug", "lineage-leaked", "--seeds", "100")
    assert status == 1
    assert "sequenceDiagram" in output
    command = next(line for line in output.splitlines() if line.startswith("again: "))
    status, again = run(*command.removeprefix("again: mantaray refs ").split())
    assert status == 1
    assert again in output


def test_time_ends_an_exploration() -> None:
    status, output = run("explore", "--seeds", "100000000", "--time-s", "0.1")
    assert status == 0
    assert "no violation" in output


def test_exploration_for_a_time_goes_on_until_then() -> None:
    # The default number of seeds would be through in a moment.
    small = ("--processes", "2", "--steps", "1")
    status, output = run("explore", "--time-s", "1.5", *small)
    assert status == 0
    assert float(output.split(" events, ")[1].split(" s,")[0]) >= 1.5


@pytest.mark.parametrize("arguments", [("--bug", "no-such-bug"), ("--processes", "1")])
def test_bad_arguments_are_refused(arguments: tuple[str, str]) -> None:
    status, _ = run("explore", *arguments)
    assert status != 0
