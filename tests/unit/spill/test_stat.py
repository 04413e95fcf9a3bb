"""What `stat` counts in directories that a real engine filled, and which nodes it finds running."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mantaray.spill.stat import running_spill_directories, stat_directory

from mantaray.spill import owner

from .engines import HEADER_BYTES, make_engine, make_node, make_objects

MB = 1 << 20
OBJECT_BYTES = HEADER_BYTES + MB
# A record ends with its trailer and starts on a block.
RECORD_BYTES = MB + 4096


def test_an_empty_directory(tmp_path: Path) -> None:
    stat = stat_directory(str(make_node(tmp_path)))
    assert (stat.segments, stat.objects, stat.live_bytes, stat.disk_bytes) == (0, 0, 0, 0)
    assert stat.amplification == 1.0


def test_objects_of_one_segment(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    owner.write_record(str(node), os.getpid())
    engine = make_engine(node)
    engine.spill(make_objects(8, MB))
    stat = stat_directory(str(node))
    assert (stat.segments, stat.objects, stat.damaged) == (1, 8, 0)
    assert stat.live_bytes == 8 * OBJECT_BYTES
    assert 8 * OBJECT_BYTES <= stat.disk_bytes <= 8 * RECORD_BYTES + 65536


def test_disk_follows_the_live_objects(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    engine = make_engine(node)
    if engine.limitations():
        pytest.skip(f"not supported here: {engine.limitations()}")
    urls = [url.decode() for url in engine.spill(make_objects(8, MB))]
    engine.delete(urls[:7])
    engine.tick()
    stat = stat_directory(str(node))
    assert (stat.segments, stat.objects, stat.live_bytes) == (1, 1, OBJECT_BYTES)
    assert stat.disk_bytes <= RECORD_BYTES + 65536
    assert 1.0 <= stat.amplification < 1.1
    engine.delete(urls[7:])
    engine.tick()
    assert stat_directory(str(node)).disk_bytes == 0


def test_a_damaged_object_is_counted_apart(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    engine = make_engine(node)
    objects = make_objects(2, MB)
    urls = engine.spill(objects)
    assert engine.set_aside(urls[0].decode(), engine.open(urls[0].decode(), objects[0][0]))
    stat = stat_directory(str(node))
    assert (stat.objects, stat.damaged, stat.live_bytes) == (1, 1, OBJECT_BYTES)


def test_a_file_of_stock_ray_counts_as_live(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    (node / ("f" * 56 + "-multi-3")).write_bytes(b"x" * 8192)
    stat = stat_directory(str(node))
    assert (stat.segments, stat.objects, stat.live_bytes, stat.disk_bytes) == (1, 0, 8192, 8192)


def test_only_damage_left_is_no_infinity_in_json(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    engine = make_engine(node)
    (item,) = make_objects(1, MB)
    (url,) = engine.spill([item])
    assert engine.set_aside(url.decode(), engine.open(url.decode(), item[0]))
    stat = stat_directory(str(node))
    assert stat.amplification == float("inf")
    assert json.loads(json.dumps(stat.to_json(), allow_nan=False))["amplification"] is None


@contextmanager
def process_called(name: str, argument: str) -> Iterator[None]:
    """Run a process with that name and argument until the end of the block."""
    # A shell: it leaves the arguments behind its script alone, and ends with its input.
    command = [name, "-c", "echo ready; read line", argument]
    with subprocess.Popen(
        command, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.communicate()


def test_the_directory_of_a_running_raylet_is_found(tmp_path: Path) -> None:
    option = f"--fallback_directory={tmp_path}"
    assert str(tmp_path) not in running_spill_directories()
    with process_called("/opt/ray/raylet", option):
        assert str(tmp_path) in running_spill_directories()
    with process_called("/opt/ray/other", option):
        assert str(tmp_path) not in running_spill_directories()


def test_the_directories_of_a_running_io_worker_are_found(tmp_path: Path) -> None:
    nodes = [make_node(tmp_path / name) for name in "ab"]
    held = [owner.mark_in_use(str(node)) for node in nodes]
    try:
        found = running_spill_directories()
        assert {str(tmp_path / "a"), str(tmp_path / "b")} <= set(found)
        assert found == sorted(set(found))
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert str(tmp_path / "a") not in running_spill_directories()


def test_processes_that_show_nothing_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2" / "fd").mkdir(parents=True)
    (tmp_path / "2" / "cmdline").write_bytes(b"")
    assert running_spill_directories(str(tmp_path)) == []
