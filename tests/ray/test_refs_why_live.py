"""`mantaray refs why`, `refs top` and `refs leaks` on a cluster that was not started for them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import RayEnv

PROGRAM = Path(__file__).parent / "programs" / "refs_why.py"
_SEEN: dict[str, Any] = {}


@pytest.fixture
def told(ray_env: RayEnv) -> Any:
    """What one program was told on one cluster; it runs once for each Ray."""
    if ray_env.version not in _SEEN:
        _SEEN[ray_env.version] = ray_env.run_program(PROGRAM)
    return _SEEN[ray_env.version]


def pid_of(holder: str) -> int:
    """Return the process id in the words for a process."""
    return int(re.findall(r"process (\d+)", holder)[0])


def test_process_without_finalizers_pays_nothing_for_them(told: Any) -> None:
    threads = [name for name in told["idle"]["threads"] if name.startswith("mantaray")]
    assert "mantaray-refs-paths" in threads
    assert not {"mantaray-finalizers", "mantaray-scope-events"} & set(threads)
    assert "mantaray.refs.finalizers" not in told["idle"]["loaded"]
    assert told["idle"]["slot is Ray's"]


def test_holders_of_an_object_are_told_with_their_reasons(told: Any) -> None:
    why = told["why"]
    assert why["owner"]["pid"] == told["driver"]
    assert why["owner"]["kind"] == "driver"
    assert why["size_bytes"] >= 1_000_000
    owner, borrower = why["holders"]
    assert owner["owner"]
    assert owner["local_refs"] == 1
    assert (borrower["pid"], borrower["actor"]) == (told["cache"], "Cache")
    assert not borrower["owner"]
    assert borrower["contained_in"] == [told["outer"]]
    assert any(told["outer"] in reason for reason in borrower["why"])
    assert why["silent"] == []


def test_variables_that_hold_it_are_told_with_function_and_line(told: Any) -> None:
    owner, borrower = told["why"]["holders"]
    (local,) = owner["variables"]["paths"]
    assert local.startswith("thread MainThread, main (refs_why.py:")
    assert local.endswith("), local ref")
    assert borrower["variables"]["paths"] == ["actor Cache.kept[0]"]
    for holder in (owner, borrower):
        assert holder["variables"]["references"] == 1
        assert holder["variables"]["problem"] is None
        assert 0 < holder["variables"]["stop_ms"] <= 5_000
    assert told["afar"]["near"] == [True, True]
    (first,), (second,) = sorted(told["afar"]["paths"])
    assert first == "actor Cache.kept[0]"
    # The function is at another line by now.
    assert second.startswith("thread MainThread, main (refs_why.py:")
    assert "it does not listen" in told["afar"]["gone"]


def test_picture_shows_the_variables(told: Any) -> None:
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not there: tools/setup test-packages installs it")
    assert "actor Cache.kept[0]" in told["svg"]
    assert told["svg"].rstrip().endswith("</svg>")


def test_objects_are_listed_by_size_age_holder_and_line(told: Any) -> None:
    for by in ("by size", "by age"):
        (listed,) = [each for each in told[by] if each["object_id"] == told["id"]]
        assert len(listed["holders"]) == 2
    assert told["by size"][0]["object_id"] == told["id"]
    # The driver put its object before it called the actor, whose task put the outer one.
    by_age = [each["object_id"] for each in told["by age"]]
    assert by_age.index(told["id"]) < by_age.index(told["outer"])
    times = [each["made_after"] for each in told["by age"]]
    assert times == sorted(times)
    assert 0 < times[0] <= told["end_s"]
    by_holder = {each["holder"]: each for each in told["by holder"]}
    assert {told["driver"], told["cache"]} == {pid_of(name) for name in by_holder}
    assert all(each["size_bytes"] >= 1_000_000 for each in by_holder.values())
    # This cluster records no lines.
    (unknown,) = told["by line"]
    assert (unknown["line"], unknown["holders"]) == ("", 2)


def test_objects_that_one_process_keeps_are_told_by_process(told: Any) -> None:
    # The three of `leak` and the object of `wrap`. The driver uses the large one as well.
    (leak,) = [leak for leak in told["leaks"] if leak["pid"] == told["cache"]]
    assert (leak["objects"], leak["grown"], leak["actor"]) == (4, 0, "Cache")
    assert 600_000 <= leak["size_bytes"] < 1_000_000


def test_unknown_object_and_process_that_hangs_are_named(told: Any) -> None:
    status, found, stderr = told["unknown"]
    assert (status, found["holders"]) == (1, [])
    assert "no process that answered knows it" in stderr
    status, found, stderr = told["no id"]
    assert (status, found) == (1, None)
    assert "an id has 56 hexadecimal digits" in stderr

    # The actor was stopped: it is named, and the owner is told of all the same.
    hanging = told["hanging"]
    assert hanging["owner"]["pid"] == told["driver"]
    assert [process["pid"] for process in hanging["silent"]] == [told["cache"]]
    assert "no answer within 5 s" in hanging["silent"][0]["problem"]
