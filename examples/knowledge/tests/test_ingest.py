"""Ingestion: every word of every document, once, from where it says, into where it belongs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from knowledge import corpus
from knowledge.ingest.chunk import Cut, split, summarise
from knowledge.ingest.pipeline import IngestOptions, Progress, ingest, ingest_source
from knowledge.ingest.routes import ROUTES, IngestRequest, Routes
from knowledge.ingest.sources import DirectorySource, JsonLinesSource, TextSource, page_document
from knowledge.memory.actor import MemoryActor, start_memory, stop_memory
from knowledge.text import count_tokens, sentences, words
from knowledge.types import (
    Document,
    Filter,
    Kind,
    KnowledgeError,
    Layer,
    Scope,
    SourceError,
    UnknownTrigger,
)

PROGRAM = Path(__file__).parent / "programs" / "ingesting.py"
NAME = "test-ingest"
SCOPE = Scope()


# --- Cutting


@given(
    st.lists(
        st.sampled_from(["word", "a.b", "é", "End.", "Next", "\n", "\n\n", "  ", "x" * 40]),
        max_size=300,
    ),
    st.integers(4, 60),
)
def test_pieces_hold_every_word_once_and_are_short(parts: list[str], tokens: int) -> None:
    text = " ".join(parts)
    cut = Cut(tokens, min(3, tokens - 1))
    pieces = split(text, cut)
    assert words(" ".join(pieces)) == words(text)
    for piece in pieces:
        # One word alone may be longer; a short rest may have joined the last piece.
        assert count_tokens(piece) <= tokens * 3 // 2 or len(piece.split()) == 1
        assert piece.strip()


@given(st.text(max_size=300))
def test_no_text_loses_a_word_to_sentences_or_summaries(text: str) -> None:
    assert words(" ".join(sentences(text))) == words(text)
    summary = summarise(text)
    left = iter(sentences(text))
    assert all(sentence in left for sentence in sentences(summary)) or not summary
    assert "".join(split(text)).strip() == "" or split(text)


def test_sentences_end_where_a_reader_ends_them() -> None:
    text = "Uses e.g. Dr. No. See a.b for 3.5 more! Really?  (Yes.) It ends\n\nHeading\n\nNew one."
    assert sentences(text) == [
        "Uses e.g. Dr. No. See a.b for 3.5 more!",
        "Really?",
        "(Yes.)",
        "It ends",
        "Heading",
        "New one.",
    ]


def test_summary_says_what_the_text_is_about() -> None:
    text = (
        "Bees make honey from nectar. The weather was fine. Honey is stored by bees in wax combs."
        " Somebody laughed. Bees defend their honey."
    )
    summary = summarise(text)
    assert summary.startswith("Bees make honey from nectar.")
    assert "weather" not in summary
    assert "laughed" not in summary


def test_nonsense_about_cutting_is_refused() -> None:
    for tokens, least, most in ((0, 0, 1), (10, 10, 1), (10, -1, 1), (10, 1, 0)):
        with pytest.raises(KnowledgeError):
            Cut(tokens, least, most)


# --- Routes


def test_unknown_trigger_is_rejected_with_those_that_are_known() -> None:
    with pytest.raises(
        UnknownTrigger, match="unknown trigger 'telepathy'; known: 'fact', 'manual'"
    ):
        ROUTES.resolve("telepathy", "text")
    with pytest.raises(
        UnknownTrigger, match="'upload' leads nowhere for source 'moon'; known: 'text'"
    ):
        ROUTES.resolve("upload", "moon")


def test_registered_route_leads_to_its_layer_with_its_options() -> None:
    routes = Routes()

    @routes.route("schedule", "wiki", Layer.LONG_TERM)
    def wiki(space: str, depth: int = 1) -> TextSource:
        return TextSource(Document(f"wiki://{space}", space, f"text {depth}"))

    route = routes.resolve("schedule", "wiki")
    assert route.layer is Layer.LONG_TERM
    assert list(route.open({"space": "x", "depth": 2}).shards()) == [
        Document("wiki://x", "x", "text 2")
    ]
    assert [r.source for r in routes] == ["wiki"]
    for options in ({}, {"space": "x", "color": "red"}):
        with pytest.raises(SourceError, match="it takes space, depth=1"):
            route.open(options)
    with pytest.raises(KnowledgeError, match="already"):
        routes.register("schedule", "wiki", Layer.CONTEXTUAL, wiki)
    with pytest.raises(UnknownTrigger, match="known: none"):
        Routes().resolve("manual", "text")


# --- Sources


def read(source: Any) -> list[Document]:
    return [document for shard in source.shards() for document in source.read(shard)]


def test_directory_gives_its_texts_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "notes"
    (root / "sub").mkdir(parents=True)
    (root / "a.md").write_text("alpha")
    (root / "sub" / "b.txt").write_bytes(b"b\xff\x00eta")
    (root / "c.exe").write_text("no")
    found = read(DirectorySource(str(root), ("*.md", "*.txt", "b.*")))
    assert [(d.uri, d.title, d.text) for d in found] == [
        ("file://notes/a.md", "a.md", "alpha"),
        ("file://notes/sub/b.txt", "sub/b.txt", "b\N{REPLACEMENT CHARACTER}eta"),
    ]
    with pytest.raises(SourceError, match="no directory"):
        DirectorySource(str(tmp_path / "none"), ("*",)).shards()


def test_json_lines_are_each_read_once_however_they_are_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.jsonl"
    lines = [
        json.dumps({"uri": f"u{n}", "text": "é" * (n % 50), "metadata": {"n": n}})
        for n in range(200)
    ]
    path.write_text("\n".join(lines[:100]) + "\n\n" + "\n".join(lines[100:]))
    for size in (1, 7, 64, 1000, 10**6):
        monkeypatch.setattr("knowledge.ingest.sources._SHARD_BYTES", size)
        found = read(JsonLinesSource(str(path)))
        assert [d.uri for d in found] == [f"u{n}" for n in range(200)]
    assert found[7].metadata == {"n": 7}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"text": "x"}',
        '{"uri": "u"}',
        '{"uri": "u", "text": 1}',
        '{"uri": "u", "text": "", "x": 1}',
        '{"uri": "u", "text": "", "metadata": {"a": []}}',
        '{"uri": "u", "text": "", "metadata": 1}',
        "\xff",
    ],
)
def test_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"uri": "u", "text": ""}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(SourceError, match=r"d\.jsonl, byte 25: "):
        read(JsonLinesSource(str(path)))


def test_page_is_read_without_its_scripts() -> None:
    page = (
        "<html><head><title>A &amp; B</title><style>p{}</style></head><body><h1>Head</h1>"
        "<p>One <b>two</b>\n three.</p><script>if (a < b) { x('<p>no</p>') }</script><ul><li>Four</ul>"
    )
    document = page_document("u", page)
    assert document == Document("u", "A & B", "Head\n\nOne two three.\n\nFour")


# --- The pipeline, on Ray


@pytest.fixture
def memory(ray_cluster: str, store_dir: Path) -> Iterator[Any]:
    """A memory's actor with vectors of tests."""
    stop_memory(NAME)
    yield start_memory(store_dir, "hash-64", name=NAME)
    stop_memory(NAME)


def call(actor: Any, method: str, *args: Any) -> Any:
    return ray.get(getattr(actor, method).remote(*args))


def lines(path: Path, documents: list[dict[str, Any]]) -> IngestRequest:
    path.write_text("\n".join(map(json.dumps, documents)))
    return IngestRequest("manual", "jsonl", options={"path": str(path)})


def in_store(actor: Any) -> list[tuple[Any, ...]]:
    """Return what is in the store but for times, whichever order it came in."""
    found = call(actor, "matching", SCOPE, "piece words", 100_000)
    return sorted(
        (
            h.record.id,
            h.record.source.uri,
            h.record.source.position,
            h.record.text,
            h.record.summary,
        )
        for h in found
    )


def documents(count: int, version: str = "first") -> list[dict[str, Any]]:
    paragraphs = [
        f"Piece {n} is the {version} of its kind. {'More words. ' * 60}" for n in range(3)
    ]
    return [
        {
            "uri": f"u{n}",
            "title": f"t{n}",
            "text": "\n\n".join(paragraphs[: n % 3 + 1]) + f" {n}",
            "metadata": {"n": n},
        }
        for n in range(count)
    ]


def test_documents_arrive_whole_and_again_changes_nothing(memory: Any, tmp_path: Path) -> None:
    told: list[Progress] = []
    request = lines(tmp_path / "d.jsonl", [*documents(100), {"uri": "empty", "text": " "}])
    done = ingest(request, memory, on_progress=told.append)
    assert (done.documents, done.written, done.skipped, done.replaced) == (101, 101, 0, 0)
    assert [p.documents for p in told] == sorted(p.documents for p in told)
    first = in_store(memory)
    assert len(first) == done.pieces == call(memory, "stats", "default")["contextual"]
    for n in range(100):
        texts = [text for _, uri, _, text, _ in first if uri == f"u{n}"]
        (hit,) = call(memory, "matching", SCOPE, f"t{n}", 1)
        assert len(texts) >= n % 3 + 1
        assert hit.record.metadata == {"n": n}
        assert hit.record.source.title == f"t{n}"
    again = ingest(request, memory)
    assert (again.written, again.skipped, again.pieces) == (0, 101, 0)
    assert in_store(memory) == first


def test_changed_document_replaces_its_old_pieces(memory: Any, tmp_path: Path) -> None:
    ingest(lines(tmp_path / "d.jsonl", documents(30)), memory)
    changed = documents(30)
    changed[5]["text"] = "Piece of a new kind."
    changed[6]["metadata"] = {"n": -6}
    done = ingest(lines(tmp_path / "d.jsonl", changed), memory)
    assert (done.written, done.skipped) == (2, 28)
    assert [text for _, uri, _, text, _ in in_store(memory) if uri == "u5"] == [
        "Piece of a new kind."
    ]
    found = call(memory, "matching", SCOPE, "t6", 1)
    assert found[0].record.metadata == {"n": -6}


def test_same_document_twice_in_one_run_is_once(memory: Any, tmp_path: Path) -> None:
    done = ingest(lines(tmp_path / "d.jsonl", documents(3) * 40), memory)
    assert (done.written, done.skipped) == (3, 117)
    assert len({uri for _, uri, _, _, _ in in_store(memory)}) == 3
    assert len(in_store(memory)) == done.pieces


def test_tenants_and_layers_have_documents_of_their_own(memory: Any) -> None:
    for tenant, trigger in (("a", "upload"), ("b", "upload"), ("a", "fact")):
        request = IngestRequest(trigger, "text", tenant, {"text": "Piece of water.", "uri": "u"})
        assert ingest(request, memory).written == 1
    assert call(memory, "stats", "a")["contextual"] == call(memory, "stats", "b")["contextual"] == 1
    (fact,) = call(memory, "matching", Scope("a"), "water", 5, [Layer.LONG_TERM])
    assert fact.record.kind is Kind.FACT
    assert call(memory, "forget", Scope("a"), Filter(layers=(Layer.CONTEXTUAL,))) == 1
    assert call(memory, "stats", "b")["contextual"] == 1
    request = IngestRequest("upload", "text", "a", {"text": "Piece of water.", "uri": "u"})
    assert ingest(request, memory).written == 1


def test_bad_document_fails_the_run_and_says_where(memory: Any, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    good = lines(path, documents(5))
    path.write_text(path.read_text() + '\n{"uri": 7}\n')
    with pytest.raises(SourceError, match=r"d\.jsonl, byte \d+: a document has a uri and a text"):
        ingest(good, memory)
    with pytest.raises(UnknownTrigger):
        ingest(IngestRequest("telepathy", "jsonl"), memory)
    path.write_text("")
    assert ingest(good, memory).documents == 0


@pytest.mark.slow
def test_killed_driver_resumes_where_it_was(memory: Any, ray_cluster: str, tmp_path: Path) -> None:
    """The run is killed twice, at different places; each time the next one goes on."""
    request = lines(tmp_path / "d.jsonl", documents(2000))
    command = [sys.executable, str(PROGRAM), ray_cluster, str(tmp_path / "d.jsonl"), NAME]
    written = 0
    for killed in (True, True, False):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told: list[str] = []
        for line in process.stdout:
            # Ray says things in between.
            if line.startswith(("written", "done")):
                told = line.split()
            if killed and told and int(told[1]) >= 200:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait(60) == (-signal.SIGKILL if killed else 0)
        before, written = written, marked(memory)
        assert written > before
        assert written < 2000 or not killed
        check_whole(memory)
    assert told[0] == "done"
    assert int(told[1]) + int(told[2]) == 2000
    assert int(told[2]) >= 200
    survived = in_store(memory)
    assert ingest(request, memory).skipped == 2000
    call(memory, "forget", SCOPE)
    ingest(request, memory)
    assert in_store(memory) == survived


def marked(memory: Any) -> int:
    """Return how many documents are in, once whatever a killed driver left behind has ended."""
    ids = [json.dumps(["default", "contextual", f"u{n}"]) for n in range(2000)]
    count, before = len(call(memory, "document_digests", ids)), -1
    while count != before:
        time.sleep(1.0)
        count, before = len(call(memory, "document_digests", ids)), count
    return count


def check_whole(memory: Any) -> None:
    """Assert that every document that has a piece has all of them, and is marked as in."""
    pieces: dict[str, set[int]] = {}
    rows = in_store(memory)
    for _, uri, position, _, _ in rows:
        pieces.setdefault(uri, set()).add(position)
    assert sum(map(len, pieces.values())) == len(rows)
    ids = {uri: json.dumps(["default", "contextual", uri]) for uri in pieces}
    known = call(memory, "document_digests", list(ids.values()))
    for uri, positions in pieces.items():
        assert positions == set(range(len(positions)))
        assert ids[uri] in known
    by_kind: dict[int, set[int]] = {}
    for uri, positions in pieces.items():
        by_kind.setdefault(int(uri[1:]) % 3, set()).add(len(positions))
    assert all(len(sizes) == 1 for sizes in by_kind.values())


def test_real_model_ingests_real_documentation(
    ray_cluster: str, store_dir: Path, embedder: Any
) -> None:
    stop_memory(NAME)
    actor = start_memory(store_dir, name=NAME)
    try:
        request = IngestRequest(
            "manual", "python-docs", options={"modules": "statistics,json,heapq"}
        )
        done = ingest(request, actor)
        assert done.written == len(corpus.docstrings(modules=("statistics", "json", "heapq"))) > 30
        asked = embedder.embed(["How do I compute the middle value of a list?"])[0]
        hits = call(actor, "nearest", SCOPE, asked, 5)
        assert "doc://python/statistics.median" in {hit.record.source.uri for hit in hits}
    finally:
        stop_memory(NAME)


def test_pages_are_ingested_for_what_they_say(memory: Any) -> None:
    request = IngestRequest("manual", "crawl", options={"pages": 40, "page_bytes": 200_000})
    options = IngestOptions(embedders=1, embedder_cpus=0.5)
    assert ingest(request, memory, options=options).pieces == 40
    fact = corpus.crawl_fact(33)
    (hit,) = call(memory, "matching", SCOPE, fact.question, 1)
    assert fact.sentence in hit.record.text


def test_source_of_ones_own_needs_two_methods(memory: Any) -> None:
    class Numbers:
        def shards(self) -> list[range]:
            return [range(0, 5), range(5, 10)]

        def read(self, shard: range) -> Iterator[Document]:
            for n in shard:
                yield Document(f"n://{n}", str(n), f"Piece number {n}.")

    assert ingest_source(Numbers(), actor=memory).written == 10
    assert isinstance(MemoryActor, type)
