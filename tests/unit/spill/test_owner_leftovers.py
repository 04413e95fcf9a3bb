"""Which directories are left over: only those of a raylet that certainly is dead."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
from mantaray._native import spill

from mantaray.spill import leftovers, node_lock, owner

from .engines import NODE, make_node

# Claims the directory given first for itself, judges the one given second, and stays alive.
_CONTAINER = """
import os, sys
from mantaray.spill import leftovers, owner
owner.machine_id = lambda: "this-machine"
mine, theirs = sys.argv[1:]
owner.write_record(mine, os.getpid())
print(leftovers.judge(mine)[0], leftovers.judge(theirs)[0], leftovers.remove([theirs]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def a_machine_with_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    # Many containers have none.
    monkeypatch.setattr(owner, "machine_id", lambda: "this-machine")


def this_process() -> owner.OwnerRecord:
    record = owner.record_of(os.getpid())
    assert record is not None
    return record


def dead_process() -> owner.OwnerRecord:
    """Return the record of a process that ended just now."""
    process = subprocess.Popen(["sleep", "60"])
    record = owner.record_of(process.pid)
    process.kill()
    process.wait()
    assert record is not None
    return record


@contextmanager
def container(mine: Path, theirs: Path, *options: str) -> Iterator[str]:
    """Run _CONTAINER in a pid namespace of its own; yield the line it printed."""
    if shutil.which("unshare") is None:
        pytest.skip("`unshare` is not installed")
    unshare = ["unshare", "--pid", "--fork", "--kill-child", *options]
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no pid namespace can be made here: {tried.stderr.strip()}")
    process = subprocess.Popen(
        [*unshare, sys.executable, "-c", _CONTAINER, mine, theirs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(timeout=120)
        process.stdout.close()


def put_record(node: Path, record: owner.OwnerRecord) -> None:
    path = Path(owner.record_path(str(node)))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(record)))


def test_a_directory_of_a_running_raylet_stays(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    owner.write_record(str(node), os.getpid())
    assert owner.read_record(str(node)) == this_process()
    assert leftovers.judge(str(node)) == (False, f"raylet {os.getpid()} is running")


def test_no_record_is_written_behind_a_disk_that_has_vanished(tmp_path: Path) -> None:
    owner.write_record(str(tmp_path / NODE), os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_a_dead_raylet_is_left_over(tmp_path: Path) -> None:
    node, record = make_node(tmp_path), dead_process()
    put_record(node, record)
    assert leftovers.judge(str(node)) == (True, f"raylet {record.pid} is dead")


def test_a_pid_that_was_used_again_is_not_the_raylet(tmp_path: Path) -> None:
    node, record = make_node(tmp_path), this_process()
    put_record(node, replace(record, start_ticks=record.start_ticks - 1))
    assert leftovers.judge(str(node)) == (True, f"raylet {os.getpid()} is dead")


def test_a_directory_of_an_earlier_boot_is_left_over(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    put_record(node, replace(this_process(), boot_id="earlier"))
    assert leftovers.judge(str(node)) == (
        True,
        f"raylet {os.getpid()} ended with an earlier boot",
    )


@pytest.mark.needs_root
def test_live_data_of_another_container_on_the_same_disk_stays(tmp_path: Path) -> None:
    theirs, ours = make_node(tmp_path / "theirs"), make_node(tmp_path / "ours")
    owner.write_record(str(ours), os.getpid())
    with container(theirs, ours, "--mount-proc") as said:
        # The container keeps its own and this process's, and so does this process.
        assert said == "False False []"
        record = owner.read_record(str(theirs))
        assert record is not None
        verdict = leftovers.judge(str(theirs))
        kept = f"raylet {record.pid} belongs to another pid namespace (a container's)"
        assert verdict == (False, kept)
        assert leftovers.remove([str(tmp_path / "theirs")]) == []
        assert theirs.is_dir()
        # Without the namespace it would have been taken for dead.
        put_record(theirs, replace(record, pid_namespace=owner.pid_namespace()))
        assert leftovers.judge(str(theirs))[0]


@contextmanager
def lock_holder(node: Path) -> Iterator[None]:
    """Run a process that inherits the node's lock, as a raylet does."""
    services = ModuleType("services")
    vars(services)["ConsolePopen"] = subprocess.Popen
    with node_lock.inherited_by_children(services, [str(node)]):
        process = services.ConsolePopen(["sleep", "600"])
    assert services.ConsolePopen is subprocess.Popen
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("namespace", [0, 4711])
def test_a_container_is_told_by_its_lock(namespace: int, tmp_path: Path) -> None:
    node, record = make_node(tmp_path), replace(dead_process(), pid_namespace=namespace)
    put_record(node, record)
    with lock_holder(node):
        assert node_lock.is_held(str(node))
        assert not leftovers.judge(str(node))[0]
    assert leftovers.judge(str(node)) == (True, f"raylet {record.pid} has released its lock")
    assert leftovers.remove([str(tmp_path)]) == [str(node)]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_no_process_inherited_tells_nothing(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    services = ModuleType("services")
    vars(services)["ConsolePopen"] = subprocess.Popen
    with node_lock.inherited_by_children(services, [str(node)]):
        pass
    assert node_lock.is_held(str(node)) is None
    put_record(node, replace(dead_process(), pid_namespace=4711))
    assert not leftovers.judge(str(node))[0]


@pytest.mark.needs_root
def test_where_proc_shows_foreign_pids_nothing_is_judged_dead(tmp_path: Path) -> None:
    theirs, ours = make_node(tmp_path / "theirs"), make_node(tmp_path / "ours")
    put_record(ours, dead_process())
    with container(theirs, ours) as said:
        assert said == "False False []"
        assert not leftovers.judge(str(theirs))[0]


def test_a_record_of_an_older_mantaray_is_kept_within_its_boot_only(tmp_path: Path) -> None:
    node, record = make_node(tmp_path), asdict(dead_process())
    del record["pid_namespace"]
    (node / spill.OWNER_FILE).write_text(json.dumps(record))
    assert leftovers.judge(str(node)) == (
        False,
        f"raylet {record['pid']} belongs to a pid namespace that is not known",
    )
    (node / spill.OWNER_FILE).write_text(json.dumps(record | {"boot_id": "earlier"}))
    assert leftovers.judge(str(node))[0]


def test_a_directory_of_another_host_stays(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    put_record(node, replace(dead_process(), machine_id="another", boot_id="b", host="elsewhere"))
    assert leftovers.judge(str(node)) == (False, "belongs to host elsewhere")


@pytest.mark.parametrize("boot_id", ["", "another"])
def test_without_a_machine_id_only_this_boot_is_judged(boot_id: str, tmp_path: Path) -> None:
    node, record = make_node(tmp_path), replace(dead_process(), machine_id="")
    put_record(node, replace(record, boot_id=boot_id, host="elsewhere"))
    assert leftovers.judge(str(node)) == (False, "belongs to host elsewhere")
    put_record(node, record)
    assert leftovers.judge(str(node))[0]


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"pid": 1}'])
def test_a_directory_without_a_readable_record_stays(text: str | None, tmp_path: Path) -> None:
    node = make_node(tmp_path)
    if text is not None:
        (node / spill.OWNER_FILE).write_text(text)
    assert leftovers.judge(str(node)) == (False, "no owner record")


def test_a_record_is_written_once_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    node, first = make_node(tmp_path), dead_process()
    put_record(node, first)
    owner.write_record(str(node), os.getpid())
    assert owner.read_record(str(node)) == first
    assert list(node.iterdir()) == []
    assert [path.name for path in (tmp_path / owner.RECORDS).iterdir()] == [node.name]


def test_a_raylet_that_cannot_be_looked_at_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many_open_files(pid: int) -> None:
        raise OSError(24, "Too many open files")

    node = make_node(tmp_path)
    put_record(node, this_process())
    monkeypatch.setattr(spill, "process_start_ticks", too_many_open_files)
    assert leftovers.judge(str(node)) == (False, f"raylet {os.getpid()} cannot be looked at")


def test_the_record_goes_with_the_directory(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    put_record(node, dead_process())
    assert leftovers.remove([str(tmp_path)]) == [str(node)]
    assert list(tmp_path.iterdir()) == []


def test_no_record_is_written_of_a_process_that_is_gone(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    owner.write_record(str(node), dead_process().pid)
    assert list(node.iterdir()) == []


def test_survey_includes_sibling_sessions_and_each_directory_once(tmp_path: Path) -> None:
    nodes = [make_node(tmp_path / f"session_{number}") for number in (1, 2)]
    make_node(tmp_path / "other")
    (tmp_path / "session_latest").symlink_to(tmp_path / "session_2")
    (tmp_path / "session_1" / "logs").mkdir()
    found = leftovers.survey([str(tmp_path / "session_2"), str(tmp_path / "session_1")])
    assert [one.path for one in found] == [str(node) for node in nodes]


def test_a_directory_that_is_no_session_has_no_siblings(tmp_path: Path) -> None:
    node = make_node(tmp_path / "a")
    make_node(tmp_path / "b")
    assert leftovers.node_directories([str(tmp_path / "a")]) == [str(node)]


def test_survey_counts_disk_bytes_of_a_file_with_two_names_once(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    (node / "one").write_bytes(b"x" * 8192)
    (node / "two").hardlink_to(node / "one")
    assert leftovers.survey([str(tmp_path)])[0].disk_bytes == 8192


def test_remove_removes_only_what_is_left_over(tmp_path: Path) -> None:
    running, dead, nobodys, elsewhere = (tmp_path / name for name in "abcd")
    put_record(make_node(running), this_process())
    put_record(make_node(dead), dead_process())
    (make_node(nobodys) / "data").write_text("precious")
    put_record(make_node(elsewhere), replace(dead_process(), machine_id="another"))
    (dead / NODE / "batch").mkdir()
    (dead / "not ours").write_text("precious")

    assert leftovers.remove(map(str, (running, dead, nobodys, elsewhere))) == [str(dead / NODE)]

    assert [(path / NODE).exists() for path in (running, dead, nobodys, elsewhere)] == [
        True,
        False,
        True,
        True,
    ]
    assert (dead / "not ours").exists()
