"""The counts of the guards: from the processes of a node to its metrics."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mantaray.node_files import start_ticks, write_file
from mantaray.refs.node import PREFIX, NodeGuards
from mantaray.refs.telemetry import COUNTS, DIRECTORY, GuardFile

from tools.metrics import NODE_PREFIX, node_metrics
from tools.reference import PYTHON


def tell(tmp_path: Path, name: str, node_id: str = "a1", **counts: int) -> None:
    about = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "node_id": node_id}
    write_file(
        tmp_path / DIRECTORY / f"{name}.json", {**about, **dict.fromkeys(COUNTS, 0), **counts}
    )


def values(guards: NodeGuards, tmp_path: Path, proc: str = "/proc") -> dict[str, float]:
    found = guards.figures(str(tmp_path), "a1", proc)
    return {each.name.removeprefix(PREFIX): each.value for each in found}


def test_node_without_repeats_has_its_series_with_zero(tmp_path: Path) -> None:
    told = values(NodeGuards(), tmp_path)
    assert told == dict.fromkeys(told, 0)
    assert len(told) == 4


def test_processes_of_the_node_are_summed_up_and_ended_ones_stay_counted(tmp_path: Path) -> None:
    guards = NodeGuards()
    tell(tmp_path, "1", repeated_ref_removed=2, merged_late=1)
    tell(tmp_path, "2", repeated_ref_removed=3)
    tell(tmp_path, "3", "b2", repeated_ref_removed=50)
    assert values(guards, tmp_path)["repeated_ref_removed"] == 5
    # All have ended: their files go, and their counts stay.
    told = values(guards, tmp_path, str(tmp_path / "no proc"))
    assert (told["repeated_ref_removed"], told["merged_late_notices"]) == (5, 1)
    assert [each.name for each in (tmp_path / DIRECTORY).iterdir()] == ["3.json"]


def test_process_that_has_nothing_to_tell_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = GuardFile(str(tmp_path), "a1")
    file.update()
    assert not file.path.exists()
    counted = {name: number for number, name in enumerate(COUNTS)}
    monkeypatch.setattr("mantaray.refs.telemetry._counts", lambda: counted)
    file.update()
    told = values(NodeGuards(), tmp_path)
    assert (told["repeated_publisher_failed"], told["repeated_releases"]) == (1, 3)


def test_metrics_of_the_guards_are_those_of_the_reference(tmp_path: Path) -> None:
    exported = {
        NODE_PREFIX + each.name: each.description
        for each in NodeGuards().figures(str(tmp_path), "a1")
    }
    declared = {each.name: each.description for each in node_metrics(PYTHON)}
    assert exported == {name: said for name, said in declared.items() if "_refs_" in name}
