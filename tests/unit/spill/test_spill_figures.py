"""The figures of a node's spilling: sums over IO workers, what lies on disk, and classes of durations."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from mantaray.node_files import start_ticks
from mantaray.spill.config import is_usable
from mantaray.spill.state import STATE_DIRECTORY
from mantaray.spill.telemetry import BOUNDS_S, OPERATIONS, RESTORED_OBJECTS, Telemetry

from mantaray import node_figures
from mantaray.spill import node

from .engines import make_engine, make_node, make_objects

NODE_ID = "ab" * 28


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / STATE_DIRECTORY / NODE_ID


def values(spilling: node.NodeSpilling, session: Path) -> dict[str, float]:
    """Return the figures by name and tags."""
    spilling.figures(str(session), NODE_ID)
    spilling.disks.wait()
    found = spilling.figures(str(session), NODE_ID)
    return {
        "/".join([each.name.removeprefix("mantaray_spill_"), *each.tags.values()]): each.value
        for each in found
    }


def test_what_an_io_worker_does_is_what_the_node_tells(tmp_path: Path, state: Path) -> None:
    directory = make_node(tmp_path)
    engine = make_engine(directory)
    telemetry = Telemetry(str(state), NODE_ID, engine.stats)
    objects = make_objects(20, 5000)
    with telemetry.timed("spill"):
        urls = engine.spill(objects)
    engine.delete([url.decode() for url in urls[:5]])
    telemetry.write({str(directory): True, "/gone": False}, 1)
    found = values(node.NodeSpilling(), tmp_path)
    assert found["spilled_objects"] == 20
    assert found["spilled_bytes"] > 20 * 5000
    assert found["deleted_objects"] == 5
    assert found["live_objects"] == 15
    assert found["live_bytes"] > 15 * 5000
    assert found["disk_bytes"] >= found["live_bytes"]
    assert found["pending_punch_bytes"] > 0
    assert found["directories_skipped"] == 1
    assert found["fallback_directories"] == 1


def test_series_are_as_many_for_one_io_worker_as_for_several(tmp_path: Path, state: Path) -> None:
    engine = make_engine(make_node(tmp_path))
    Telemetry(str(state), NODE_ID, engine.stats).write({}, 0)
    one = values(node.NodeSpilling(), tmp_path)
    path = next(state.glob("*.json"))
    told = json.loads(path.read_text()) | {
        "pid": os.getppid(),
        "start_ticks": start_ticks(os.getppid()),
    }
    path.with_name("figures-other.json").write_text(json.dumps(told | {"spilled_objects": 7}))
    both = values(node.NodeSpilling(), tmp_path)
    assert both.keys() == one.keys()
    assert len(one) <= 50
    assert both["spilled_objects"] == one["spilled_objects"] + 7


def test_counts_of_a_killed_io_worker_stay_and_its_pending_bytes_go(
    tmp_path: Path, state: Path
) -> None:
    engine = make_engine(make_node(tmp_path))
    Telemetry(str(state), NODE_ID, engine.stats).write({}, 0)
    (path,) = state.glob("*.json")
    ended = subprocess.Popen(["true"])
    ended.wait()
    told = json.loads(path.read_text()) | {"pid": ended.pid, "spilled_objects": 3}
    path.write_text(json.dumps(told | {"pending_punch_bytes": 4096}))
    spilling = node.NodeSpilling()
    for _ in range(2):
        found = values(spilling, tmp_path)
        assert found["spilled_objects"] == 3
        assert found["pending_punch_bytes"] == 0
    assert not path.exists()


def test_durations_are_counted_in_every_class_that_they_fit_in(tmp_path: Path, state: Path) -> None:
    engine = make_engine(make_node(tmp_path))
    telemetry = Telemetry(str(state), NODE_ID, engine.stats)
    with telemetry.timed("restore"):
        time.sleep(0.02)
    with pytest.raises(OSError, match="refused"), telemetry.timed("restore"):
        raise OSError("refused")
    telemetry.write({}, 0)
    found = values(node.NodeSpilling(), tmp_path)
    buckets = [found[f"call_seconds_bucket/restore/{bound:g}"] for bound in BOUNDS_S]
    assert buckets == sorted(buckets)
    assert buckets[1] <= 1
    assert found["call_seconds_bucket/restore/+Inf"] == found["call_seconds_count/restore"] == 2
    assert found["call_seconds_sum/restore"] >= 0.02
    assert found["call_seconds_count/spill"] == 0


def test_node_that_never_spilled_has_no_series(tmp_path: Path) -> None:
    told = [each.name for each in node_figures.figures(str(tmp_path), NODE_ID)]
    assert [name for name in told if "_spill_" in name] == []


def test_figures_are_written_when_something_has_changed_and_not_too_often(
    tmp_path: Path, state: Path
) -> None:
    engine = make_engine(make_node(tmp_path))
    telemetry = Telemetry(str(state), NODE_ID, engine.stats)
    assert telemetry.is_due()
    telemetry.write({}, 0)
    assert not telemetry.is_due()
    (path,) = state.glob("*.json")
    path.unlink()
    telemetry.write({}, 0)
    assert not path.exists()
    telemetry.add(RESTORED_OBJECTS)
    telemetry.write({}, 0)
    assert json.loads(path.read_text())[RESTORED_OBJECTS] == 1


def test_directory_that_is_gone_or_on_another_disk_is_skipped(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    assert is_usable(str(tmp_path / "made at the next spill"), device)
    assert is_usable(str(tmp_path), 0)
    assert not is_usable(str(tmp_path), device + 1)
    assert not is_usable(str(tmp_path / "gone" / "node"), device)


def test_each_call_of_ray_has_all_its_classes(tmp_path: Path, state: Path) -> None:
    engine = make_engine(make_node(tmp_path))
    Telemetry(str(state), NODE_ID, engine.stats).write({}, 0)
    found = values(node.NodeSpilling(), tmp_path)
    for operation in OPERATIONS:
        classes = [name for name in found if name.startswith(f"call_seconds_bucket/{operation}/")]
        assert len(classes) == len(BOUNDS_S) + 1
