"""The language model behind an endpoint: a stub that speaks the protocol, and misbehaves."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Iterator

import pytest
from endpoint import Reply, Stub, chat_endpoint

from knowledge.chat import ChatClient, Endpoint, EndpointError
from knowledge.generator import ChatGenerator, Generated
from knowledge.planner import ModelPlanner, PlanError, RulePlanner, plan_from_json
from knowledge.prompt import Prompt
from knowledge.types import Hit, Kind, Layer, Plan, Record, Source

GOOD_PLAN = {
    "strategy": "lexical",
    "layers": ["long-term", "contextual"],
    "k": 7,
    "summarise": True,
    "token_budget": 500,
    "query": "numpy.mean axis",
    "reason": "It names a function.",
}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A running endpoint; no proxy of the shell stands between."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with chat_endpoint() as started:
        yield started


def ask(stub: Stub, user: str = "Why {x}?", timeout_s: float = 20.0, retries: int = 2) -> str:
    """Ask the stub once, with a key in the environment."""
    endpoint = Endpoint(stub.url, "small-model", "TEST_KEY", timeout_s, retries)

    async def main() -> str:
        client = ChatClient(endpoint, {"TEST_KEY": "s3cret"})
        try:
            return await client.complete("Be brief.", user)
        finally:
            await client.close()

    return asyncio.run(main())


def hit(number: int, text: str) -> Hit:
    """Return a hit of a document."""
    source = Source(f"doc://{number}", f"title {number}")
    return Hit(Record(f"r{number}", Layer.CONTEXTUAL, Kind.CHUNK, text, source), 1.0, {})


def generate(stub: Stub, *hits: Hit) -> Generated:
    """Have the stub answer a prompt with these hits."""
    prompt = Prompt("q", hits, "the prompt's text")

    async def main() -> Generated:
        client = ChatClient(Endpoint(stub.url, "m", timeout_s=20.0))
        try:
            return await ChatGenerator(client).generate(prompt)
        finally:
            await client.close()

    return asyncio.run(main())


def test_request_is_what_the_protocol_says_and_the_reply_comes_back(stub: Stub) -> None:
    stub.replies = [Reply("  Because. \n")]
    assert ask(stub) == "Because."
    request = stub.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer s3cret"
    assert request["body"]["model"] == "small-model"
    assert request["body"]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why {x}?"},
    ]


def test_no_key_in_the_environment_sends_none(stub: Stub) -> None:
    async def main() -> None:
        client = ChatClient(Endpoint(stub.url, "m"), {})
        await client.complete("", "hello")
        await client.close()

    asyncio.run(main())
    assert "Authorization" not in stub.requests[0]["headers"]
    assert [m["role"] for m in stub.requests[0]["body"]["messages"]] == ["user"]


@pytest.mark.parametrize(
    "bad", [Reply(status=503), Reply(status=429, headers={"Retry-After": "0"}), Reply(hang_up=True)]
)
def test_error_that_passes_is_tried_again(stub: Stub, bad: Reply) -> None:
    stub.replies = [bad, Reply("At last.")]
    assert ask(stub) == "At last."
    assert len(stub.requests) == 2


def test_error_that_stays_is_reported_after_the_last_attempt(stub: Stub) -> None:
    stub.replies = [Reply(status=500, body=b"out of memory")]
    with pytest.raises(EndpointError, match="status 500: out of memory"):
        ask(stub, retries=1)
    assert len(stub.requests) == 2


def test_refusal_is_not_repeated_and_does_not_show_the_key(stub: Stub) -> None:
    stub.replies = [Reply(status=401, body=b'{"error": {"message": "bad key"}}')]
    with pytest.raises(EndpointError, match="status 401") as refused:
        ask(stub)
    assert len(stub.requests) == 1
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in repr(Endpoint(stub.url, "m", "TEST_KEY"))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>no</html>",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {}}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": "  "}}]}',
        b'{"choices": [{"message": {"content": ["a"]}}]}',
        b"\xff\xfe",
    ],
)
def test_reply_that_is_no_completion_is_an_error_not_an_answer(stub: Stub, body: bytes) -> None:
    stub.replies = [Reply(body=body)]
    with pytest.raises(EndpointError, match=r"no chat completion|empty"):
        ask(stub)


def test_slow_endpoint_is_given_up_and_the_time_counts_all_attempts(stub: Stub) -> None:
    stub.replies = [Reply("late", pause_s=30.0)]
    start = time.monotonic()
    with pytest.raises(EndpointError, match=r"did not answer within 0.3 s"):
        ask(stub, timeout_s=0.3)
    assert time.monotonic() - start < 30.0


def test_nobody_there_is_an_error_that_names_the_endpoint() -> None:
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9/v1"):
        ask(Stub("http://127.0.0.1:9/v1"), retries=0)


def test_answer_s_marks_become_citations_counted_from_one(stub: Stub) -> None:
    stub.replies = [Reply("B says so [2]. A agrees [1], and B again [2][9].")]
    made = generate(stub, hit(1, "A first. More."), hit(2, "B first."))
    assert made.known
    assert made.text == "B says so [1]. A agrees [2], and B again [1]."
    assert [(c.record_id, c.quote) for c in made.citations] == [
        ("r2", "B first."),
        ("r1", "A first."),
    ]
    assert stub.requests[0]["body"]["messages"][-1]["content"] == "the prompt's text"


def test_model_that_does_not_know_is_not_taken_to_know(stub: Stub) -> None:
    stub.replies = [Reply("I do not know.")]
    assert not generate(stub, hit(1, "A.")).known


def test_model_is_not_asked_when_there_is_nothing_to_answer_from(stub: Stub) -> None:
    assert not generate(stub).known
    assert stub.requests == []


def plan(stub: Stub, question: str = "How do I use numpy.mean along an axis?") -> Plan:
    """Have the model plan."""

    async def main() -> Plan:
        client = ChatClient(Endpoint(stub.url, "m", retries=0, timeout_s=20.0))
        try:
            return await ModelPlanner(client, RulePlanner()).plan(question, [])
        finally:
            await client.close()

    return asyncio.run(main())


@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "```\n{}\n```\n"])
def test_model_s_plan_is_used(stub: Stub, form: str) -> None:
    stub.replies = [Reply(form.replace("{}", json.dumps(GOOD_PLAN)))]
    assert plan(stub) == Plan(
        "lexical",
        (Layer.LONG_TERM, Layer.CONTEXTUAL),
        7,
        True,
        500,
        ("The model: It names a function.",),
        "numpy.mean axis",
    )


BAD_PLANS = [
    {"strategy": "psychic"},
    {"strategy": None},
    {"layers": []},
    {"layers": "contextual"},
    {"layers": ["elsewhere"]},
    {"k": 0},
    {"k": 51},
    {"k": 3.5},
    {"k": "5"},
    {"k": True},
    {"summarise": "yes"},
    {"token_budget": 10},
    {"token_budget": 10**9},
    {"query": "  "},
    {"reason": None},
    {"mood": "good"},
]


@pytest.mark.parametrize("change", BAD_PLANS, ids=str)
def test_bad_plan_is_refused_and_the_rules_decide_and_say_why(
    stub: Stub, change: dict[str, object]
) -> None:
    text = json.dumps(GOOD_PLAN | change)
    with pytest.raises(PlanError):
        plan_from_json(text)
    stub.replies = [Reply(text)]
    made = plan(stub)
    rules = RulePlanner().plan_now("How do I use numpy.mean along an axis?")
    assert dataclasses.replace(made, reasons=()) == dataclasses.replace(rules, reasons=())
    assert "the model's plan could not be used" in made.reasons[0]
    assert made.reasons[1:] == rules.reasons


@pytest.mark.parametrize(
    "reply",
    [Reply("Sure! I would search."), Reply("[1]"), Reply(status=500), Reply(json.dumps({"k": 5}))],
)
def test_no_plan_at_all_leaves_the_rules(stub: Stub, reply: Reply) -> None:
    stub.replies = [reply]
    assert "the model's plan could not be used" in plan(stub).reasons[0]
