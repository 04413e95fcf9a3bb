"""Which models a router takes replicas to hold, and which request goes first where a slot is free."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from mantaray.serve.models import Models, first_in_turn, move_into_place, oldest_that_fits


def test_model_that_was_just_sent_is_known_before_the_controller_reports_it() -> None:
    models = Models()
    models.sent("replica", "a", ())
    models.sent("replica", "b", ())
    assert models.on("replica", ()) == ["b", "a"]
    assert models.on("other", ()) == []


def test_model_that_had_to_go_is_not_taken_to_be_there() -> None:
    models = Models()
    reported = ("a", "b")
    assert models.on("replica", reported) == ["a", "b"]
    models.sent("replica", "c", reported)
    # There is room for two, and the one used longest ago went.
    assert models.on("replica", reported) == ["c", "a"]
    models.sent("replica", "b", reported)
    models.sent("replica", "c", reported)
    assert models.on("replica", reported) == ["c", "b"]


def test_replica_that_is_loading_is_not_taken_to_have_more_room() -> None:
    now = [100.0]
    models = Models(lambda: now[0])
    assert models.on("replica", ("a", "b")) == ["a", "b"]
    models.sent("replica", "c", ("a", "b"))
    assert models.on("replica", ("a", "b", "c")) == ["c", "a"]
    now[0] += 10
    assert models.on("replica", ("b", "c")) == ["c", "b"]
    # More room is believed when nothing is being loaded.
    assert models.on("replica", ("b", "c", "d")) == ["c", "b", "d"]


def test_what_was_sent_to_a_replica_that_is_gone_is_forgotten() -> None:
    models = Models()
    models.sent("gone", "a", ())
    models.sent("stays", "b", ())
    models.keep_only({"stays"})
    assert models.on("gone", ()) == []
    assert models.on("stays", ()) == ["b"]


def test_models_sent_before_any_report_are_bounded() -> None:
    models = Models()
    for number in range(1000):
        models.sent("replica", f"m{number}", ())
    assert len(models.on("replica", ())) == 100
    assert models.on("replica", ())[0] == "m999"


def request(
    model: str, *, done: bool = False, began: float | None = None, created_at: float | None = None
) -> Any:
    """Return what Ray's pending request has of what is looked at."""
    future: Future[None] = Future()
    if done:
        future.set_result(None)
    return SimpleNamespace(
        metadata=SimpleNamespace(multiplexed_model_id=model),
        future=future,
        routing_context=SimpleNamespace(multiplexed_start_matching_time=began),
        created_at=time.time() if created_at is None else created_at,
    )


def test_oldest_request_for_a_model_that_is_there_goes_first() -> None:
    pending = [request("a"), request("b", done=True), request("b"), request("b")]
    assert oldest_that_fits(pending, ["b", "c"]) is pending[2]
    assert oldest_that_fits(pending, ["c"]) is None


HERE, ELSEWHERE = ["here"], {"here", "elsewhere"}


def first(*pending: Any) -> Any:
    """Return the position of the request that gets a slot of a replica that has the model "here"."""
    chosen = first_in_turn(pending, HERE, ELSEWHERE.__contains__, 1.0)
    return None if chosen is None else pending.index(chosen)


def test_request_whose_model_is_on_another_replica_steps_back_for_one_that_fits() -> None:
    assert first(request("elsewhere"), request("here"), request("here")) == 1
    assert first(request("elsewhere"), request("")) == 1


def test_request_whose_model_is_nowhere_and_one_without_a_model_keep_their_turn() -> None:
    assert first(request("nowhere"), request("here")) == 0
    assert first(request(""), request("here")) == 0


def test_slot_does_not_stay_empty_when_nobody_fits() -> None:
    assert first(request("elsewhere"), request("elsewhere")) == 0
    assert first(request("here", done=True)) is None


def test_request_steps_back_no_longer_than_its_preference_lasts() -> None:
    now = time.time()
    assert first(request("elsewhere", began=now - 0.5), request("here")) == 1
    assert first(request("elsewhere", began=now - 1.5), request("here")) == 0


def test_request_that_a_replica_rejected_goes_back_to_its_place() -> None:
    queue = deque(request("a", created_at=float(age)) for age in (1, 2, 2, 4, 3))
    rejected = queue[-1]
    move_into_place(queue)
    assert [each.created_at for each in queue] == [1, 2, 2, 3, 4]
    assert queue[3] is rejected
    move_into_place(queue)
    assert [each.created_at for each in queue] == [1, 2, 2, 3, 4]
    move_into_place(deque())


def longest_overtaking(shares: dict[str, int], count: int) -> dict[str, int]:
    """Serve requests for models that are spread over two replicas; every one begins to prefer at once.

    Args:
        shares: of 10 requests in a row, how many ask for which model.
        count: how many requests there are.

    Returns:
        For each model, the most requests by which one of its requests was overtaken.
    """
    row = [model for model, share in shares.items() for _ in range(share)]
    pending = deque(request(row[number % 10], created_at=float(number)) for number in range(count))
    places = [list(shares)[0::2], list(shares)[1::2]]
    overtaken = dict.fromkeys(shares, 0)
    for turn in range(count):
        here = places[turn % 2]
        now = time.time()
        for each in list(pending)[:8]:
            # As many as Ray has routing tasks look for a replica; a turn is 0.1 s.
            began = each.routing_context.multiplexed_start_matching_time
            each.routing_context.multiplexed_start_matching_time = (began or now) - 0.1
        chosen = first_in_turn(pending, here, lambda model: model in shares, 1.0)
        place = pending.index(chosen)
        pending.remove(chosen)
        for each in list(pending)[:place]:
            model = each.metadata.multiplexed_model_id
            each.overtaken = getattr(each, "overtaken", 0) + 1
            overtaken[model] = max(overtaken[model], each.overtaken)
    assert not pending
    return overtaken


def test_one_model_is_served_in_order() -> None:
    assert longest_overtaking({"a": 10}, 100) == {"a": 0}


def test_overtaking_is_bounded_with_two_and_four_models_however_skewed() -> None:
    # Eleven turns until the preference of those ahead of a request is over, and then its own.
    for shares in (
        {"a": 5, "b": 5},
        {"a": 9, "b": 1},
        {"a": 1, "b": 9},
        {"a": 7, "b": 1, "c": 1, "d": 1},
        {"a": 3, "b": 3, "c": 2, "d": 2},
    ):
        assert max(longest_overtaking(shares, 200).values()) <= 22
