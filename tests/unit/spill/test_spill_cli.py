"""`mantaray spill` to the letter: tables and JSON on stdout, words on stderr."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mantaray.cli import spill as command
from mantaray.cli.main import main

from mantaray.spill import owner

from .engines import HEADER_BYTES, NODE, make_engine, make_node, make_objects
from .test_owner_leftovers import dead_process, put_record

MB = 1 << 20


@pytest.fixture(autouse=True)
def only_directories_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The default directories are those of real sessions, which are not a test's to clean.
    monkeypatch.setattr(command, "_SESSIONS", str(tmp_path / "ray" / "session_*"))
    monkeypatch.setattr(command, "running_spill_directories", lambda: [str(tmp_path / "running")])


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["spill", *map(str, arguments)])


def cells(output: str) -> list[list[str]]:
    """Return the words of each row below the header."""
    return [line.split() for line in output.splitlines()[1:]]


def test_stat_prints_a_row_for_each_node_directory(tmp_path: Path) -> None:
    node = make_node(tmp_path / "a")
    make_engine(node).spill(make_objects(2, MB))
    (tmp_path / "a" / "something else").mkdir()
    result = run("stat", "--dir", tmp_path / "a")
    assert (result.exit_code, result.stderr) == (0, "")
    header, *_ = result.stdout.splitlines()
    names = ["segments", "objects", "live bytes", "disk bytes", "amplification", "damaged", "path"]
    assert [name.strip() for name in header.split("  ") if name.strip()] == names
    ((segments, objects, live, disk, amplification, damaged, path),) = cells(result.stdout)
    assert (segments, objects, damaged, path) == ("1", "2", "0", str(node))
    assert live == f"{2 * (MB + HEADER_BYTES):,}"
    assert int(disk.replace(",", "")) >= 2 * MB
    assert float(amplification) == pytest.approx(1, abs=0.1)


def test_stat_json_of_several_directories(tmp_path: Path) -> None:
    nodes = [make_node(tmp_path / name) for name in "ab"]
    make_engine(nodes[0]).spill(make_objects(1, MB))
    result = run("stat", "--json", "--dir", tmp_path / "a", "--dir", tmp_path / "b")
    first, second = json.loads(result.stdout)
    assert (first["path"], first["objects"]) == (str(nodes[0]), 1)
    assert second == {
        "path": str(nodes[1]),
        "segments": 0,
        "objects": 0,
        "live_bytes": 0,
        "disk_bytes": 0,
        "damaged": 0,
        "amplification": 1.0,
    }


def test_stat_by_default_shows_running_nodes_and_no_left_over_ones(tmp_path: Path) -> None:
    running = make_node(tmp_path / "running")
    owner.write_record(str(running), os.getpid())
    left_over = running.with_name(NODE[:-1] + "1")
    left_over.mkdir()
    put_record(left_over, dead_process())
    assert [row[-1] for row in cells(run("stat").stdout)] == [str(running)]
    both = run("stat", "--dir", tmp_path / "running").stdout
    assert [row[-1] for row in cells(both)] == [str(running), str(left_over)]


def test_stat_without_any_node_says_so_on_stderr() -> None:
    result = run("stat", "--json")
    assert (result.exit_code, result.stdout) == (0, "[]\n")
    assert result.stderr == "no node's spill directory found; name one with --dir\n"


def test_a_directory_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    result = run("stat", "--dir", tmp_path / "nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "does not exist" in result.stderr


def test_clean_by_default_removes_what_dead_sessions_left(tmp_path: Path) -> None:
    dead = make_node(tmp_path / "ray" / "session_1")
    alive = make_node(tmp_path / "running")
    stock = make_node(tmp_path / "ray" / "session_2")
    put_record(dead, dead_process())
    owner.write_record(str(alive), os.getpid())

    dry = run("clean", "--dry-run")
    assert (dry.exit_code, dry.stderr) == (0, "")
    assert {row[-1]: row[0] for row in cells(dry.stdout)} == {
        str(dead): "would",
        str(alive): "keep",
        str(stock): "keep",
    }
    assert dead.exists()

    result = run("clean")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {row[-1]: row for row in cells(result.stdout)}
    assert rows[str(dead)][0] == "removed"
    assert rows[str(alive)][2:-1] == f"raylet {os.getpid()} is running".split()
    assert rows[str(stock)][2:-1] == ["no", "owner", "record"]
    assert [path.exists() for path in (dead, alive, stock)] == [False, True, True]


def test_clean_says_what_it_could_not_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = make_node(tmp_path / "a")
    put_record(dead, dead_process())
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    result = run("clean", "--dir", tmp_path / "a")
    assert result.exit_code == 1
    assert cells(result.stdout)[0][:2] == ["not", "removed"]
    assert result.stderr == (
        f"error: 1 left-over directories could not be removed, the first is {dead}\n"
        "hint: run this as the user that Ray ran as, or as root\n"
    )
