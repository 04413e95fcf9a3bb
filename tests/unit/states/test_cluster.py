"""Which nodes of a cluster are marked as different, and what the command prints of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from mantaray.cli.cluster import as_text
from mantaray.states.cluster import NodeReport, differences, healthy

HEAD = NodeReport(
    node_id="aa" * 28,
    address="10.0.0.1",
    is_head=True,
    ray="2.60.0",
    python="3.11.7",
    mantaray="0.2.0",
    patches={"gc": ("active", "attached"), "spill": ("active", "attached")},
)


def worker(number: int, **changes: Any) -> NodeReport:
    """Return a worker node that is like the head but for some changes."""
    own: dict[str, Any] = {
        "node_id": f"{number:02x}" * 28,
        "address": f"10.0.1.{number}",
        "is_head": False,
    }
    return dataclasses.replace(HEAD, **(own | changes))


def test_nodes_that_are_alike_are_healthy() -> None:
    reports = [HEAD, worker(1), worker(2)]
    assert differences(reports) == {}
    assert healthy(reports)
    assert "DIFFERS" not in as_text(reports)


def test_a_patch_that_waits_for_an_import_is_no_difference() -> None:
    armed = {"gc": ("armed", "waits"), "spill": ("active", "attached")}
    assert healthy([HEAD, worker(1, patches=armed)])


def test_node_with_a_patch_off_is_marked() -> None:
    off = {**HEAD.patches, "spill": ("off", "MANTARAY_PATCHES is -spill")}
    reports = [HEAD, worker(1), worker(2, patches=off)]
    assert differences(reports) == {"02" * 28: ["spill is off, elsewhere active"]}
    assert not healthy(reports)
    assert "02020202  spill off: MANTARAY_PATCHES is -spill" in as_text(reports)


def test_node_without_mantaray_is_marked_once() -> None:
    reports = [HEAD, worker(1), worker(2, mantaray=None, patches={})]
    assert differences(reports) == {"02" * 28: ["Mantaray is none, elsewhere 0.2.0"]}
    assert not healthy(reports)


def test_of_two_nodes_the_worker_is_the_one_that_differs() -> None:
    reports = [HEAD, worker(1, python="3.12.1", mantaray="0.1.0")]
    assert differences(reports) == {
        "01" * 28: ["Python is 3.12.1, elsewhere 3.11.7", "Mantaray is 0.1.0, elsewhere 0.2.0"]
    }


def test_node_that_does_not_answer_is_marked_and_unhealthy() -> None:
    silent = NodeReport(
        "05" * 28, "10.0.1.5", False, problem="it did not answer within 60 s", answered=False
    )
    reports = [HEAD, silent]
    assert differences(reports) == {}
    assert not healthy(reports)
    text = as_text(reports)
    assert "no answer" in text
    assert "DIFFERS" in text
    assert "05050505  it did not answer within 60 s" in text


def test_patch_that_is_refused_everywhere_is_no_difference_but_unhealthy() -> None:
    refused = {"gc": ("refused", "this Ray is not known")}
    reports = [dataclasses.replace(HEAD, patches=refused), worker(1, patches=refused)]
    assert differences(reports) == {}
    assert not healthy(reports)
    assert "gc refused: this Ray is not known" in as_text(reports)
