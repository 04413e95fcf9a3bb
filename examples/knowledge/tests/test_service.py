"""The service over HTTP, with the real Serve, store and embedder."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import threading
import time
import urllib.parse
from typing import Any

import httpx
import pytest
from served import TEXTS, Served, store_texts

from knowledge.wire import as_text

STAGES = ["queue", "plan", "embed", "retrieve", "prompt", "generate", "remember"]


def test_answer_names_its_sources_its_plan_and_its_time(running: Served) -> None:
    told = running.ask("What does heapq.merge do?", session_id="s1", explain=True)
    assert told["known"]
    assert "Merge multiple sorted inputs into a single sorted output. [1]" in told["answer"]
    assert told["question"] == "What does heapq.merge do?"
    assert told["citations"][0]["uri"] == "doc://python/heapq.merge"
    assert told["citations"][0]["quote"] in TEXTS["heapq.merge"]
    assert told["plan"]["strategy"] == "lexical"
    assert told["hits"][0]["title"] == "heapq.merge"
    assert told["hits"][0]["found_by"] == {"lexical": 1}
    # A question of names alone needs no vector.
    assert list(told["timings_ms"]) == [stage for stage in STAGES if stage != "embed"]
    assert all(spent >= 0 for spent in told["timings_ms"].values())
    assert "heapq.merge" in as_text(told)


def test_every_stage_of_a_question_in_plain_words_is_timed(running: Served) -> None:
    told = running.ask("How much room is left on a disk?", session_id="s1", explain=True)
    assert told["plan"]["strategy"] == "vector"
    assert told["citations"][0]["title"] == "shutil.disk_usage"
    assert list(told["timings_ms"]) == STAGES


def test_what_is_not_in_memory_is_not_answered(running: Served) -> None:
    told = running.ask("What is the capital of Mongolia?")
    assert not told["known"]
    assert told["answer"].startswith("I do not know")
    assert told["citations"] == []


def test_follow_up_is_understood_within_its_session_only(running: Served) -> None:
    running.ask("What does numpy.median do?", session_id="follow")
    told = running.ask("And what does it return?", session_id="follow", explain=True)
    assert told["plan"]["layers"][0] == "short-term"
    assert told["plan"]["query"].startswith("What does numpy.median do?")
    assert told["citations"][0]["title"] == "numpy.median"
    elsewhere = running.ask("And what does it return?", session_id="other", explain=True)
    assert elsewhere["plan"]["layers"][0] != "short-term"


def test_question_with_signs_of_templates_is_stored_as_it_was_asked(running: Served) -> None:
    question = 'What does json.dumps do with "{question}" and {0} %s?'
    told = running.ask(question, session_id="braces")
    assert told["question"] == question
    with running.client() as client:
        exchanges = client.get("/sessions/braces").json()["exchanges"]
    assert [one["question"] for one in exchanges] == [question]
    assert exchanges[0]["answer"] == told["answer"]


def test_repeated_attempt_is_remembered_once(running: Served) -> None:
    for _ in range(3):
        running.ask("What does shlex.quote do?", session_id="again", query_id="q-1")
    running.ask("What does shlex.quote do?", session_id="again", query_id="q-2")
    with running.client() as client:
        assert len(client.get("/sessions/again").json()["exchanges"]) == 2


def test_tenants_see_nothing_of_each_other(running: Served) -> None:
    assert not running.ask("What does shlex.quote do?", tenant="stranger")["known"]
    store_texts("neighbour")
    told = running.ask("What does shlex.quote do?", tenant="neighbour", session_id="mine")
    assert told["known"]
    assert all(c["record_id"].startswith("neighbour-") for c in told["citations"])
    with running.client("default") as client:
        assert client.get("/sessions/mine").json()["exchanges"] == []
        assert client.delete("/sessions/mine").json() == {"count": 0}
        body = {"question": "q", "tenant": "default"}
        refused = client.post("/ask", json=body, headers={"X-Tenant": "neighbour"})
    assert refused.status_code == 400
    assert refused.json()["error"] == "WrongTenant"


def test_session_is_flushed_then_forgotten_for_good(running: Served) -> None:
    for title in ("heapq.merge", "shlex.quote"):
        running.ask(f"What does {title} do?", session_id="old")
    with running.client() as client:
        newest_first = [e["question"] for e in client.get("/sessions/old").json()["exchanges"]]
        assert newest_first == ["What does shlex.quote do?", "What does heapq.merge do?"]
        before = client.get("/stats").json()["memory"]["long-term"]
        assert client.post("/sessions/old/flush").json() == {"count": 2}
        assert client.post("/sessions/old/flush").json() == {"count": 0}
        assert client.get("/sessions/old").json()["exchanges"] == []
        assert client.get("/stats").json()["memory"]["long-term"] == before + 2
        assert client.delete("/sessions/old").json() == {"count": 2}
        assert client.get("/stats").json()["memory"]["long-term"] == before


def test_plan_is_shown_without_an_answer_being_made(running: Served) -> None:
    with running.client() as client:
        told = client.post(
            "/plan", json={"question": "Summarise sorting", "session_id": "p"}
        ).json()
        assert client.get("/sessions/p").json()["exchanges"] == []
    assert told["summarise"]
    assert told["reasons"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"question": ""},
        {"question": ["What?"]},
        {"question": {"text": "What?"}},
        {"question": "x" * 5000},
        {"question": "q", "sesion_id": "s"},
        {"question": "q", "session_id": "a/b"},
        {"question": "q", "priority": "urgent"},
        {"question": "q", "deadline_ms": -1},
        {"question": "q", "query_id": ""},
    ],
    ids=str,
)
def test_request_that_is_none_is_refused(running: Served, body: dict[str, Any]) -> None:
    with running.client() as client:
        assert client.post("/ask", json=body).status_code == 422


def test_deadline_that_passes_is_said_so(running: Served) -> None:
    with running.client() as client:
        body = {"question": "How much room is left on a disk?", "deadline_ms": 0.01}
        reply = client.post("/ask", json=body)
    assert reply.status_code == 504
    assert reply.json()["error"] == "DeadlineExceeded"


def test_full_queue_refuses_and_every_asker_is_told_one_way_or_the_other(running: Served) -> None:
    # One client for all: making one takes longer than an answer.
    with running.client() as client, concurrent.futures.ThreadPoolExecutor(40) as pool:
        together = threading.Barrier(40)

        def ask(number: int) -> httpx.Response:
            body = {"question": f"How much room is left on a disk{number * ' '}?"}
            together.wait(60)
            return client.post("/ask", json=body)

        replies = list(pool.map(ask, range(40)))
    statuses = {reply.status_code for reply in replies}
    assert statuses == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert reply.json()["error"] == "QueueFull"
            assert 1 <= int(reply.headers["Retry-After"]) <= 60
        else:
            assert reply.json()["known"]
    assert running.ask("What does shlex.quote do?")["known"]


def test_asker_who_hangs_up_frees_the_queue(running: Served) -> None:
    address = urllib.parse.urlsplit(running.url)
    for number in range(4):
        body = json.dumps({"question": f"How much room is left on a disk{number * ' '}?"})
        # Does not wait for an answer at all: for how long it may would depend on who is quicker.
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        headers = {"Content-Type": "application/json", "X-Tenant": "default"}
        connection.request("POST", "/ask", body, headers)
        connection.close()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with running.client() as client:
            queue = client.get("/stats").json()["queue"]
        if (queue["waiting"], queue["running"]) == (0, 0):
            break
        time.sleep(0.05)
    assert (queue["waiting"], queue["running"]) == (0, 0)


def test_health_and_description_are_there_and_nothing_points_elsewhere(running: Served) -> None:
    with running.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/ask", "/plan", "/sessions/{session_id}", "/stats", "/healthz"} <= set(paths)
        assert "429" in paths["/ask"]["post"]["responses"]
        for address in ("/", "/docs", "/page/app.js", "/page/api.js", "/page/style.css"):
            reply = client.get(address)
            assert reply.status_code == 200
            assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
            assert "http://" not in reply.text
            assert "https://" not in reply.text
        for address in ("/page/nothing.js", "/page/..%2fcli.py", "/page/__init__.py"):
            assert client.get(address).status_code == 404
