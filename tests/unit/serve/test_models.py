"""Which models a router takes replicas to hold, and which request goes first where a slot is free."""

from __future__ import annotations

import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from mantaray.serve.models import Models, oldest_that_fits, steps_back


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


def request(model: str, *, done: bool = False, began: float | None = None) -> Any:
    """Return what Ray's pending request has of what is looked at."""
    future: Future[None] = Future()
    if done:
        future.set_result(None)
    return SimpleNamespace(
        metadata=SimpleNamespace(multiplexed_model_id=model),
        future=future,
        routing_context=SimpleNamespace(multiplexed_start_matching_time=began),
        created_at=time.time(),
    )


def test_oldest_request_for_a_model_that_is_there_goes_first() -> None:
    pending = [request("a"), request("b", done=True), request("b"), request("b")]
    assert oldest_that_fits(pending, ["b", "c"]) is pending[2]
    assert oldest_that_fits(pending, ["c"]) is None


def test_request_steps_back_no_longer_than_its_preference_lasts() -> None:
    assert steps_back(request("a"), 1.0)
    assert steps_back(request("a", began=time.time() - 0.5), 1.0)
    assert not steps_back(request("a", began=time.time() - 1.5), 1.0)
