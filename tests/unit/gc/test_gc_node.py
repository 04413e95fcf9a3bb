"""The figures of a node: few series, sums that never fall, and files that do not pile up."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from mantaray.gc.model import Collection, Counts, Kind
from mantaray.gc.node import NodeCounts
from mantaray.gc.telemetry import DIRECTORY, StateFile
from mantaray.node_files import start_ticks

from mantaray import node_figures

NODE = "a1"


def tell(session: Path, pid: int, node_id: str = NODE, **counts: float) -> Path:
    """Write the file of a process as it would; return its path."""
    file = StateFile(str(session), False, node_id)
    file.path = file.path.with_name(f"{pid}.json")
    file.update(Counts(**counts), "up to date", None)  # type: ignore[arg-type]
    ticks = start_ticks(pid) if Path("/proc", str(pid)).exists() else 1
    told = {**json.loads(file.path.read_text()), "pid": pid, "start_ticks": ticks}
    file.path.write_text(json.dumps(told))
    return file.path


def values(counts: NodeCounts, session: Path) -> dict[str, float]:
    """Return the figures by name, those of collections by kind as well."""
    found = counts.figures(str(session), NODE)
    return {"/".join([each.name, *each.tags.values()]): each.value for each in found}


def an_ended_process() -> int:
    """Return the id of a process that has run."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def test_node_has_ten_series_however_many_processes_it_has(tmp_path: Path) -> None:
    tell(tmp_path, os.getpid(), young=2, objects=5, triggers=3, longest_young_s=0.002)
    tell(tmp_path, os.getppid(), young=1, full=1, objects=7, longest_young_s=0.001)
    found = values(NodeCounts(), tmp_path)
    assert len(found) == 10
    assert found["mantaray_gc_collections/young"] == 3
    assert found["mantaray_gc_collections/full"] == 1
    assert found["mantaray_gc_objects_freed"] == 12
    assert found["mantaray_gc_longest_pause_ms/young"] == pytest.approx(2)


def test_counts_of_a_process_that_has_ended_stay_and_its_file_goes(tmp_path: Path) -> None:
    counts = NodeCounts()
    tell(tmp_path, os.getpid(), objects=5)
    killed = tell(tmp_path, an_ended_process(), objects=100, longest_full_s=1.0)
    for _ in range(2):
        found = values(counts, tmp_path)
        assert found["mantaray_gc_objects_freed"] == 105
        assert found["mantaray_gc_longest_pause_ms/full"] == 0
        assert not killed.exists()
    # A process that ends well removes its file itself.
    for path in Path(tmp_path, DIRECTORY).iterdir():
        path.unlink()
    assert values(counts, tmp_path)["mantaray_gc_objects_freed"] == 105


def test_processes_of_another_node_in_the_same_directory_do_not_count(tmp_path: Path) -> None:
    other = tell(tmp_path, an_ended_process(), node_id="b2", objects=100)
    assert values(NodeCounts(), tmp_path) == {}
    tell(tmp_path, os.getpid(), objects=5)
    assert values(NodeCounts(), tmp_path)["mantaray_gc_objects_freed"] == 5
    assert other.exists()


def test_damaged_file_keeps_no_figure_from_the_metrics(tmp_path: Path) -> None:
    good = tell(tmp_path, os.getpid(), objects=5)
    for name, text in {"1.json": "{", "2.json": "[]", "3.json": '{"pid": 1}'}.items():
        good.with_name(name).write_text(text)
    assert values(NodeCounts(), tmp_path)["mantaray_gc_objects_freed"] == 5


def test_node_without_collections_has_no_series(tmp_path: Path) -> None:
    told = [each.name for each in node_figures.figures(str(tmp_path), NODE)]
    assert [name for name in told if "_gc_" in name] == []


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    counts = NodeCounts()
    path = tell(tmp_path, os.getpid(), objects=5)
    assert values(counts, tmp_path)["mantaray_gc_objects_freed"] == 5
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "objects": 6}))
    os.utime(path, ns=(1, 1))
    assert values(counts, tmp_path)["mantaray_gc_objects_freed"] == 6


def test_what_a_process_counts_is_what_the_node_reads() -> None:
    counts = Counts()
    for kind in Kind:
        counts.add(Collection(kind, "trigger", 0.1, 1, 0))
    assert {f"longest_{kind.value}_s" for kind in Kind} <= counts.as_dict().keys()
