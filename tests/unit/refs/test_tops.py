"""The largest and the oldest objects, and the sums by holder and by line."""

from __future__ import annotations

from dataclasses import replace

from mantaray.refs import tops
from mantaray.refs.cluster import Held, Process, Starts

JOB = "01000000"
EARLY, LATE, FORGOTTEN = (f"ff{name:0<38}{JOB}" for name in ("aa", "bb", "cc"))


def held(task: str, number: int, size_bytes: int | None = 100, **changes: object) -> Held:
    # As of an object that was put: Ray replaces the first byte.
    object_id = "00" + task[2:] + number.to_bytes(4, "little").hex()
    made = Held(object_id, size_bytes, 1, 0, False, (), "(put object) a.py:3", "FINISHED")
    return replace(made, **changes)  # type: ignore[arg-type]


def process(name: str, *objects: Held) -> Process:
    return Process(name, int(name, 16), "127.0.0.2:1", "worker", name, objects)


def borrowed(each: Held) -> Held:
    return replace(each, size_bytes=None, task_status="", call_site="(deserialize) b.py:9")


def test_largest_objects_come_first_with_the_owner_before_borrowers() -> None:
    large, small = held(EARLY, 1, 1_000), held(EARLY, 2, 10)
    owner, borrower = process("a", small, large), process("b", borrowed(large))
    found = tops.largest([borrower, owner], 5)
    assert [each.size_bytes for each in found] == [1_000, 10]
    assert found[0].holders == (owner, borrower)
    assert found[0].call_site == "(put object) a.py:3"
    assert tops.largest([borrower, owner], 1) == found[:1]


def test_oldest_objects_are_in_the_order_in_which_tasks_began_and_made_them() -> None:
    starts = Starts({EARLY: 50.0, LATE: 70.0}, {JOB: 10.0})
    # The number is little-endian: 256 is not before 2.
    made = [held(LATE, 1), held(EARLY, 256), held(EARLY, 2), held(FORGOTTEN, 1)]
    found = tops.oldest([process("a", *made)], starts, 9)
    wanted = [held(FORGOTTEN, 1), held(EARLY, 2), held(EARLY, 256), held(LATE, 1)]
    assert [each.object_id for each in found] == [each.object_id for each in wanted]
    # A task that Ray has forgotten began after its job.
    assert [each.made_after_s for each in found] == [10.0, 50.0, 50.0, 70.0]


def test_holder_counts_what_it_uses_and_not_what_it_only_waits_for() -> None:
    shared = held(EARLY, 1, 1_000)
    waiting = held(EARLY, 2, 500, local_refs=0)
    owner = process("a", shared, waiting, held(EARLY, 3, 7))
    borrower = process("b", borrowed(shared), borrowed(replace(waiting, local_refs=1)))
    found = tops.by_holder([owner, borrower], 9)
    told = [(each.name, each.objects, each.size_bytes) for each in found]
    assert told == [(str(borrower), 2, 1_500), (str(owner), 2, 1_007)]


def test_line_that_made_objects_is_the_owners_and_counts_processes_that_use_them() -> None:
    first, second = held(EARLY, 1, 1_000), held(EARLY, 2, 1, call_site="disabled")
    found = tops.by_line([process("b", borrowed(first)), process("a", first, second)], 9)
    told = [(each.name, each.objects, each.size_bytes, each.holders) for each in found]
    assert told == [("(put object) a.py:3", 1, 1_000, 2), ("", 1, 1, 1)]
