"""The plan of resource-view sync agrees with what was measured, and is of use where nothing was."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from mantaray.cli.main import main

from mantaray.sim import COSTS, Plan, predict

# Nodes, updates a second, relays, window in ms: seconds of CPU of the GCS a second, measured on Ray 2.60.
MEASURED_CORES = {
    (200, 1, 0, 0): 0.99,
    (400, 1, 0, 0): 1.06,
    (800, 1, 0, 0): 1.11,
    (200, 1, 10, 50): 0.20,
    (400, 1, 10, 50): 0.25,
    (800, 1, 10, 50): 0.36,
    (200, 1, 4, 50): 0.10,
    (400, 1, 4, 50): 0.11,
    (800, 1, 4, 50): 0.16,
    (800, 10, 10, 50): 0.81,
    (800, 10, 4, 50): 0.56,
}


@pytest.mark.parametrize(("plan", "cores"), MEASURED_CORES.items(), ids=str)
def test_cpu_of_the_gcs_is_predicted_within_a_factor_of_two(
    plan: tuple[int, float, int, float], cores: float
) -> None:
    found = predict(Plan(*plan), COSTS["2.60"])
    assert cores / 2 <= found.gcs_cores <= cores * 2


def test_a_cluster_that_outgrows_its_gcs_is_seen_coming() -> None:
    direct = [predict(Plan(nodes, 1, 0, 0), COSTS["2.60"]) for nodes in (50, 400, 800, 2000)]
    assert [one.saturated for one in direct] == [False, True, True, True]
    assert direct[2].staleness_p99_ms > 1000
    relayed = predict(Plan(2000, 1, 8, 100), COSTS["2.60"])
    assert not relayed.saturated
    assert relayed.staleness_p99_ms < direct[3].staleness_p99_ms / 10


def test_older_ray_saturates_sooner() -> None:
    plan = Plan(400, 1, 0, 0)
    new, old = predict(plan, COSTS["2.60"]), predict(plan, COSTS["2.48"])
    assert old.staleness_p99_ms > new.staleness_p99_ms


def test_more_relays_cost_the_gcs_more_and_each_relay_less() -> None:
    found = [predict(Plan(2000, 1, relays, 50), COSTS["2.60"]) for relays in (2, 8, 32)]
    assert [one.gcs_cores for one in found] == sorted(one.gcs_cores for one in found)
    assert [one.relay_cores for one in found] == sorted(
        (one.relay_cores for one in found), reverse=True
    )


@pytest.mark.parametrize(
    "plan", [Plan(1, 1, 0, 0), Plan(5, 0, 0, 0), Plan(5, 1, 6, 0), Plan(5, 1, 1, -1)]
)
def test_plans_without_sense_are_refused(plan: Plan) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        predict(plan, COSTS["2.60"])


def test_command_prints_a_table_and_json() -> None:
    arguments = [
        "sim",
        "sync",
        "--nodes",
        "2000",
        "--hz",
        "1",
        "--relays",
        "8",
        "--window-ms",
        "100",
    ]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert [line.split("  ")[0] for line in shown.output.splitlines()[1:]] == [
        "direct",
        "8 relays, 100 ms",
    ]
    rows = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert [row["relays"] for row in rows] == [0, 8]
    assert rows[1]["messages_per_s"] == 2000 * 7


def test_costs_are_parameters() -> None:
    arguments = ["sim", "sync", "--nodes", "100", "--json"]
    cheap = json.loads(CliRunner().invoke(main, [*arguments, "--gcs-write-us", "1"]).output)
    dear = json.loads(CliRunner().invoke(main, [*arguments, "--gcs-write-us", "50"]).output)
    assert cheap[0]["gcs_cores"] < dear[0]["gcs_cores"]


def test_more_relays_than_nodes_is_one_clear_error() -> None:
    shown = CliRunner().invoke(main, ["sim", "sync", "--nodes", "2", "--relays", "3"])
    assert shown.exit_code == 1
    assert "hint:" in shown.output


PLOT = ["sim", "sync", "--nodes", "500", "--relays", "4", "--plot"]


def test_plot_is_a_png_with_something_on_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.png"
    shown = CliRunner().invoke(main, [*PLOT, str(path)])
    assert shown.exit_code == 0, shown.output
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", picture[16:24])
    assert min(width, height) > 700
    # Nothing but the frame of it would have a few thousand bytes.
    assert len(picture) > 20_000


def test_without_matplotlib_the_plot_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Python does for a module that is not there.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = tmp_path / "plan.png"
    shown = CliRunner().invoke(main, [*PLOT, str(path)])
    assert shown.exit_code == 1
    assert "the plot needs matplotlib, which is not installed" in shown.output
    assert "hint: pip install 'ray-mantaray[plot]'" in shown.output
    assert not path.exists()


def test_relays_of_nodes_without_batches_write_every_message() -> None:
    plan = Plan(nodes=800, hz=1, relays=4, window_ms=100)
    bare = predict(plan, COSTS["2.48"])
    assert bare.relay_writes_per_s >= 200 * 800
    assert bare.relay_writes_per_s > 10 * predict(plan, COSTS["2.60"]).relay_writes_per_s
    # Measured: about four microseconds each.
    assert bare.relay_cores == pytest.approx(0.64, rel=0.1)
