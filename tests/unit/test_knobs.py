"""The values chosen for Ray's spilling knobs: never over a user's, never what a raylet refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mantaray import knobs

GIB = 1 << 30
FEW = knobs.Machine(processors=2, store_bytes=GIB // 2, disk_bytes=100 * GIB)
MANY = knobs.Machine(processors=64, store_bytes=200 * GIB, disk_bytes=4000 * GIB)
SMALL_DISK = knobs.Machine(processors=2, store_bytes=GIB // 2, disk_bytes=GIB)
MIN = "oom_grace_period_s"


def test_a_large_machine_keeps_rays_number_of_io_workers() -> None:
    assert knobs.choose(MANY, {}, {})["max_io_workers"] == 4


def test_a_create_waits_only_where_the_disk_is_small() -> None:
    assert knobs.choose(FEW, {}, {})["oom_grace_period_s"] == 0
    assert knobs.choose(SMALL_DISK, {}, {})["oom_grace_period_s"] == 1


def test_a_node_on_a_small_disk_keeps_rays_batches() -> None:
    assert set(knobs.choose(SMALL_DISK, {}, {})) == {"oom_grace_period_s", "max_io_workers"}


@pytest.mark.parametrize("machine", [FEW, MANY])
def test_no_batch_is_bounded_below_the_smallest_spill(machine: knobs.Machine) -> None:
    chosen = knobs.choose(machine, {}, {})
    assert 0 < chosen["min_spilling_size"] <= chosen["max_spilling_file_size_bytes"]
    assert chosen["max_spilling_file_size_bytes"] <= machine.store_bytes // 8


@pytest.mark.parametrize("theirs", ["min_spilling_size", "max_spilling_file_size_bytes"])
def test_a_user_who_set_one_end_of_the_batches_keeps_both(theirs: str) -> None:
    chosen = knobs.choose(FEW, {theirs: 5_000_000}, {})
    assert set(chosen) == {"oom_grace_period_s", "max_io_workers"}


def test_a_disk_that_cannot_be_looked_at_counts_as_full(tmp_path: Path) -> None:
    assert knobs.this_machine(GIB, str(tmp_path / "missing")).disk_bytes == 0
    assert knobs.this_machine(GIB, str(tmp_path)).disk_bytes > 0


@pytest.mark.parametrize("knob", knobs.KNOBS, ids=lambda knob: knob.name)
def test_what_the_user_set_in_the_environment_stays(knob: knobs.Knob) -> None:
    assert knob.name not in knobs.choose(FEW, {}, {knob.variable: "77"})


@pytest.mark.parametrize("knob", knobs.KNOBS, ids=lambda knob: knob.name)
def test_what_the_user_set_in_the_system_configuration_stays(knob: knobs.Knob) -> None:
    assert knob.name not in knobs.choose(FEW, {knob.name: 77}, {})


def test_a_raylet_gets_the_values_and_the_starting_process_keeps_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable = knobs.MAX_IO_WORKERS.variable
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv(knobs.CHOSEN_VARIABLE, raising=False)
    before = dict(os.environ)
    with knobs.handing_on({"max_io_workers": 2}):
        assert os.environ[variable] == "2"
        assert knobs.chosen_in(os.environ) == {"max_io_workers": 2}
    assert dict(os.environ) == before


def test_a_node_started_by_a_worker_does_not_take_the_outer_nodes_values_for_the_users() -> None:
    with knobs.handing_on({"max_io_workers": 2, MIN: 5}):
        inherited = dict(os.environ)
    inherited["RAY_" + MIN] = "6"  # The worker's own code set this one.
    kept = knobs.as_set_by_users(inherited)
    assert "RAY_max_io_workers" not in kept
    assert kept["RAY_" + MIN] == "6"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": "b"}', '{"a": null}'])
def test_a_damaged_list_of_values_counts_as_none(text: str) -> None:
    assert knobs.chosen_in({knobs.CHOSEN_VARIABLE: text}) == {}


def test_running_raylets_show_their_environment(tmp_path: Path) -> None:
    for pid, name in (("12", "raylet"), ("13", "python"), ("14", "raylet")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(name + "\n")
    (tmp_path / "12" / "environ").write_bytes(b"RAY_max_io_workers=2\0EMPTY=\0broken\0")
    # Process 14 has ended, or belongs to somebody else.
    assert knobs.running_nodes(str(tmp_path)) == {12: {"RAY_max_io_workers": "2", "EMPTY": ""}}
