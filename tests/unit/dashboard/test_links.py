"""Which node a profiling link means, without Ray: ids, shared addresses, contradictions."""

from __future__ import annotations

import pytest
from mantaray.dashboard.links import LinkError, LiveNode, check_pid, named_node, nodes_at, owner_of

A = LiveNode("a1" * 28, "10.0.0.1", "left")
B = LiveNode("b2" * 28, "10.0.0.1", "right")
C = LiveNode("c3" * 28, "10.0.0.2", "alone")
NODES = [B, A, C]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "one", "\u0661", "1;2"])
def test_pid_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(LinkError) as caught:
        check_pid(text)
    assert caught.value.status == 400


def test_node_is_found_by_its_id_in_any_case() -> None:
    assert named_node(B.node_id.upper(), None, NODES) == B
    assert named_node(B.node_id, "10.0.0.1", NODES) == B


@pytest.mark.parametrize("node_id", ["a1", "g" * 56, "a1" * 29, "a1" * 27 + "a", " " * 56])
def test_id_that_is_not_hexadecimal_or_has_another_length_is_a_bad_request(node_id: str) -> None:
    with pytest.raises(LinkError, match="56 hexadecimal digits") as caught:
        named_node(node_id, None, NODES)
    assert caught.value.status == 400


def test_id_of_a_node_that_is_not_alive_is_not_found() -> None:
    with pytest.raises(LinkError, match="unknown or dead") as caught:
        named_node("d4" * 28, None, NODES)
    assert caught.value.status == 404


def test_contradiction_names_both_addresses() -> None:
    with pytest.raises(LinkError, match=r"10\.0\.0\.2, not 10\.0\.0\.1") as caught:
        named_node(C.node_id, "10.0.0.1", NODES)
    assert caught.value.status == 400


def test_address_without_a_live_node_is_not_found() -> None:
    assert nodes_at("10.0.0.1", NODES) == [A, B]
    with pytest.raises(LinkError) as caught:
        nodes_at("10.0.0.9", NODES)
    assert caught.value.status == 404


def test_one_holder_on_the_address_is_the_owner_whatever_other_addresses_hold() -> None:
    assert owner_of(7, A.address, [A, B], {B.node_id, C.node_id}, "x?pid=7") == B


@pytest.mark.parametrize(("holders", "status"), [({A.node_id, B.node_id}, 409), (set(), 404)])
def test_owner_that_cannot_be_told_lists_every_candidate_with_its_link(
    holders: set[str], status: int
) -> None:
    with pytest.raises(LinkError) as caught:
        owner_of(7, A.address, [A, B], holders, "traceback?pid=7")
    assert caught.value.status == status
    for node in (A, B):
        assert f"traceback?pid=7&node_id={node.node_id}    (node {node.name})" in caught.value.text
    assert "process" in caught.value.text


def test_candidates_without_the_process_are_not_listed_among_several_that_have_it() -> None:
    third = LiveNode("d4" * 28, A.address, "third")
    with pytest.raises(LinkError) as caught:
        owner_of(7, A.address, [A, B, third], {A.node_id, B.node_id}, "traceback?pid=7")
    assert third.node_id not in caught.value.text
