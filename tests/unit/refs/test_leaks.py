"""What one process keeps for long, from two looks at the cluster."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest
from mantaray.cli.refs import seconds
from mantaray.refs import leaks
from mantaray.refs.cluster import Held, Process

SITE = "(put object) cache.py:7"


def held(number: int, size_bytes: int | None = 100, **changes: object) -> Held:
    made = Held(f"{number:056x}", size_bytes, 1, 0, False, (), SITE, "FINISHED")
    return replace(made, **changes)  # type: ignore[arg-type]


def actor(*objects: Held) -> Process:
    return Process("aa", 1, "127.0.0.2:1", "worker", "Cache", objects)


def test_objects_that_both_looks_saw_are_counted_by_process_and_line() -> None:
    other_line = held(9, 5_000, call_site="(put object) other.py:1")
    before = [actor(held(1), held(2, 300), other_line)]
    after = [actor(held(1), held(2, 300), held(3), held(4), other_line)]
    large, small = leaks.find(before, after)
    assert (large.objects, large.size_bytes, large.grown) == (1, 5_000, 0)
    assert (small.objects, small.size_bytes, small.grown) == (2, 400, 2)
    assert (small.call_site, small.example) == (SITE, held(2).object_id)


def test_object_that_was_made_or_freed_between_the_looks_is_not_shown() -> None:
    assert leaks.find([actor(held(1))], [actor(held(2))]) == []


def test_object_that_two_processes_use_is_not_one_holders_leak() -> None:
    borrower = Process("bb", 2, "127.0.0.2:2", "worker", held=(held(1, None, task_status=""),))
    assert leaks.find([actor(held(1)), borrower], [actor(held(1)), borrower]) == []


def test_forgotten_borrower_is_named_and_not_the_owner_that_waits_for_it() -> None:
    owner = replace(actor(held(1, 700, local_refs=0)), worker_id="cc", name="", kind="driver")
    borrower = Process("bb", 2, "127.0.0.2:2", "worker", "Forgot", (held(1, None, task_status=""),))
    (found,) = leaks.find([owner, borrower], [owner, borrower])
    assert (found.holder.name, found.size_bytes) == ("Forgot", 700)


@pytest.mark.parametrize("changes", [{"task_refs": 1}, {"task_status": "RUNNING"}])
def test_object_that_a_task_waits_for_is_no_leak(changes: dict[str, object]) -> None:
    looks = [actor(held(1, **changes))]  # type: ignore[arg-type]
    assert leaks.find(looks, looks) == []


def test_same_id_in_a_restarted_process_is_not_taken_for_the_same_holder() -> None:
    restarted = replace(actor(held(1)), worker_id="dd")
    assert leaks.find([actor(held(1))], [restarted]) == []


@pytest.mark.parametrize(
    ("text", "wanted_s"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7_200)]
)
def test_times_are_read(text: str, wanted_s: float) -> None:
    assert seconds(None, None, text) == wanted_s


def test_time_that_is_none_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="'soon' is not a time such as 90s, 10m or 2h"):
        seconds(None, None, "soon")
