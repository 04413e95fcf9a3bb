"""The Python face on a real Ray: one-shot questions, and pipelines that run, tell how, and stop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import Served

from knowledge.operators import (
    Chunk,
    Directory,
    Generate,
    MakePrompt,
    MemoryWriter,
    Questions,
    Retrieve,
    Store,
    Summarise,
)
from knowledge.pipeline import Pipeline, PipelineError
from knowledge.session import RunningPipeline, Session
from knowledge.types import Answer, KnowledgeError


@pytest.fixture(scope="module")
def session(running: Served) -> Iterator[Session]:
    """A session beside the running service, with its memory and its embedder."""
    with Session(running.settings) as made:
        yield made


def exchanges(running: Served, session_id: str) -> list[str]:
    """Return the questions that a session remembers, newest first."""
    with running.client() as client:
        told = client.get(f"/sessions/{session_id}").json()
    return [exchange["question"] for exchange in told["exchanges"]]


def test_one_shot_query_returns_its_answer_and_is_remembered(
    session: Session, running: Served
) -> None:
    answer = session.run_query("What does shlex.quote do?", "python-1", query_id="q")
    assert isinstance(answer, Answer)
    assert answer.text == "Return a shell-escaped version of the string s. [1]"
    assert answer.citations[0].source.uri == "doc://python/shlex.quote"
    assert answer.timings_ms["generate"] > 0
    session.run_query("What does shlex.quote do?", "python-1", query_id="q")
    assert exchanges(running, "python-1") == ["What does shlex.quote do?"]
    assert session.run_query("What does shlex.quote do?").scope.session is None


def test_follow_up_of_a_one_shot_query_is_understood(session: Session) -> None:
    session.run_query("What does numpy.median do?", "python-2")
    answer = session.run_query("And what does it return?", "python-2")
    assert answer.citations[0].source.title == "numpy.median"


def test_pipeline_of_questions_runs_to_its_end_and_gives_its_answers(
    session: Session, running: Served
) -> None:
    texts = ("What does shlex.quote do?", "What does heapq.merge do?")
    pipeline = (
        Pipeline("batch")
        >> Questions(texts, session="python-3")
        >> Retrieve(strategy="lexical")
        >> MakePrompt()
        >> Generate()
        >> MemoryWriter()
    )
    run = session.submit(pipeline)
    status = run.wait(180)
    assert (status.state, status.read, status.finished, status.failed) == ("done", 2, 2, 0)
    assert [answer.question for answer in run.results()] == list(texts)
    assert all(answer.known for answer in run.results())
    assert exchanges(running, "python-3") == list(reversed(texts))
    assert set(status.spent_ms) == {"Retrieve", "MakePrompt", "Generate", "MemoryWriter"}
    # Its actor is gone, its name free.
    with pytest.raises(KnowledgeError, match="no pipeline 'batch'"):
        session.pipeline("batch")


def test_wrong_edge_is_refused_before_anything_starts(session: Session) -> None:
    pipeline = Pipeline("wrong") >> Questions(("q",)) >> Generate()
    with pytest.raises(
        PipelineError, match="step 2, Generate, takes Prompted, but step 1, Questions"
    ):
        session.submit(pipeline)
    with pytest.raises(KnowledgeError, match="no pipeline 'wrong'"):
        session.pipeline("wrong")


def test_watched_directory_is_ingested_until_it_is_told_to_stop(
    session: Session, running: Served, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("The zeppelin hangar opens at seven in the morning.")
    file = tmp_path / "watch.yaml"
    file.write_text(
        f"""
pipeline: watch
steps:
  - directory: {{path: {notes}, pattern: "*.md", poll_s: 0.05}}
  - chunk: {{tokens: 80}}
  - summarise
  - store: {{tenant: watcher}}
"""
    )
    session.submit(file)
    with pytest.raises(KnowledgeError, match="'watch' is running already"):
        session.submit(file)
    # Any process that knows its name can look at it.
    run = session.pipeline("watch")
    wait_for(run, finished=1)
    question = "When does the zeppelin hangar open?"
    told = running.ask(question, tenant="watcher")
    assert "at seven in the morning. [1]" in told["answer"]
    write_at_once(notes / "a.md", "The zeppelin hangar opens at nine in the morning.")
    write_at_once(notes / "b.md", "The canteen is closed on Mondays.")
    wait_for(run, finished=3)
    assert "at nine in the morning. [1]" in running.ask(question, tenant="watcher")["answer"]
    assert run.status().state == "running"
    status = run.stop(120)
    assert (status.state, status.read, status.failed) == ("stopped", 3, 0)
    assert run.status() == status
    assert [stored.pieces for stored in run.results()] == [1, 1, 1]
    with running.client("watcher") as client:
        assert client.get("/stats").json()["memory"]["contextual"] == 2


def write_at_once(path: Path, text: str) -> None:
    """Write a file of which nobody sees a part."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


def wait_for(run: RunningPipeline, finished: int) -> None:
    """Wait until that many values came out."""
    end = time.monotonic() + 120
    while run.status().finished < finished:
        assert time.monotonic() < end, run.status()
        time.sleep(0.05)


def test_same_document_twice_is_once(session: Session, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One. Two. Three.")
    pipeline = (
        Pipeline("twice")
        >> Directory(str(tmp_path))
        >> Chunk()
        >> Summarise()
        >> Store(tenant="twice", layer="long-term")
    )
    written = []
    for _ in range(2):
        run = session.submit(pipeline)
        run.wait(180)
        written += [stored.pieces for stored in run.results()]
    assert written == [1, 0]


def test_pipeline_that_cannot_start_says_why_and_leaves_no_actor(session: Session) -> None:
    pipeline = (
        Pipeline("chatty") >> Questions(("q",)) >> Retrieve() >> MakePrompt() >> Generate("chat")
    )
    with pytest.raises(KnowledgeError, match="no endpoint is set"):
        session.submit(pipeline)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            session.pipeline("chatty")
        except KnowledgeError:
            return
        time.sleep(0.05)
    pytest.fail("its actor is still there")


def test_memory_with_other_settings_is_not_opened_a_second_time(running: Served) -> None:
    other = dataclasses.replace(running.settings, short_term_limit=7)
    with pytest.raises(KnowledgeError, match="runs already"):
        Session(other)


def test_text_comes_in_over_http_once_and_what_reads_files_does_not(running: Served) -> None:
    body = {
        "trigger": "upload",
        "source": "text",
        "options": {"text": "The lighthouse was painted in 1902.", "title": "lighthouse"},
    }
    with running.client("http") as client:
        first = client.post("/ingest", json=body)
        assert (first.status_code, first.json()) == (
            200,
            {"documents": 1, "written": 1, "pieces": 1},
        )
        again = client.post("/ingest", json=body).json()
        assert again == {"documents": 1, "written": 0, "pieces": 0}
        fact = client.post("/ingest", json={**body, "trigger": "fact"})
        assert fact.json()["written"] == 1
        assert client.get("/stats").json()["memory"]["long-term"] == 1
        told = running.ask("When was the lighthouse painted?", tenant="http")
        assert "1902" in told["answer"]
        refused: list[httpx.Response] = [
            client.post("/ingest", json={**body, "trigger": "moonrise"}),
            client.post("/ingest", json={**body, "trigger": "manual", "source": "directory"}),
            client.post("/ingest", json={**body, "source": "telepathy"}),
            client.post("/ingest", json={**body, "options": {"txt": "misspelt"}}),
        ]
    assert [reply.status_code for reply in refused] == [400] * 4
    assert [reply.json()["error"] for reply in refused] == [
        "UnknownTrigger",
        "UnknownTrigger",
        "UnknownTrigger",
        "SourceError",
    ]
