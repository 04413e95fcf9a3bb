"""Who holds an object and why, from what processes told and did not tell."""

from __future__ import annotations

from dataclasses import replace

from mantaray.refs import why
from mantaray.refs.cluster import Held, Process

OBJECT = "00" * 27 + "01"
OUTER = "00" * 27 + "02"
OWNED = Held(OBJECT, 1_000, 1, 0, False, (), "(put object) a.py:3", "FINISHED")
BORROWED = Held(OBJECT, None, 2, 1, True, (OUTER,), "disabled", "")
DRIVER = Process("aa", 1, "127.0.0.2:1", "driver", held=(OWNED,))
ACTOR = Process("bb", 2, "127.0.0.2:2", "worker", "Cache", (BORROWED,))
SILENT = Process("cc", 3, "127.0.0.2:3", "worker", problem="no answer within 2 s")


def test_owner_comes_first_and_each_reason_is_said() -> None:
    found = why.explain(OBJECT, [ACTOR, SILENT, DRIVER])
    assert found.owner == DRIVER
    assert why.text(found).splitlines() == [
        f"object {OBJECT}, 1,000 bytes",
        "owned by driver, process 1 at 127.0.0.2:1",
        "  1 local reference, made at (put object) a.py:3",
        "held by actor Cache, process 2 at 127.0.0.2:2",
        "  2 local references",
        "  argument of 1 task that it submitted",
        f"  a reference to it is inside its object {OUTER}",
        "  it uses the value in the object store",
        "not asked: worker, process 3 at 127.0.0.2:3: no answer within 2 s",
    ]


def test_owner_without_uses_waits_for_the_others() -> None:
    waiting = replace(DRIVER, held=(replace(OWNED, local_refs=0),))
    said = why.text(why.explain(OBJECT, [waiting, ACTOR])).splitlines()
    assert said[2] == "  no use of its own; it waits for the others"


def test_result_that_is_being_made_says_how_its_task_fares() -> None:
    pending = replace(OWNED, local_refs=0, task_status="PENDING_NODE_ASSIGNMENT")
    assert why.reasons(pending) == ["the task that makes it is PENDING_NODE_ASSIGNMENT"]


def test_owner_that_is_gone_is_said_to_be_missing() -> None:
    found = why.explain(OBJECT, [ACTOR])
    assert found.owner is None
    assert why.text(found).splitlines()[1] == "no process that answered owns it"
    assert found.to_json()["holders"][0]["why"] == why.reasons(BORROWED)


def test_object_that_nobody_knows_has_no_holders() -> None:
    assert why.explain(OUTER, [DRIVER, ACTOR]).holders == ()
