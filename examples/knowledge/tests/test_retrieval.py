"""Retrieval: every strategy is carried out, over layers, each text once, within its budget."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import TEXTS, record

from knowledge.embedding import Embedder
from knowledge.memory.manager import MemoryManager
from knowledge.memory.sqlite import SqliteStore
from knowledge.planner import RulePlanner
from knowledge.prompt import passage
from knowledge.resources import LocalEmbedder, LocalMemory
from knowledge.retrieval import LEXICAL, RECENT, VECTOR, Retriever, fuse, various, within_budget
from knowledge.text import count_tokens
from knowledge.types import Hit, Kind, Layer, Plan, Record, Scope, Source, Strategy

SCOPE = Scope("default", "s")
CONTEXTUAL = (Layer.CONTEXTUAL, Layer.LONG_TERM)


@pytest.fixture(scope="module")
def memory(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryManager]:
    """The real store with TEXTS, and one exchange."""
    file: Path = tmp_path_factory.mktemp("store") / "memory.db"
    store = SqliteStore(file, embedder.dimension, embedder.name)
    manager = MemoryManager(store, embedder)
    manager.store_records([record(title, text) for title, text in TEXTS.items()])
    manager.remember(SCOPE, "Is it safe?", "Yes, quoting is safe.", (), "q1")
    yield manager
    manager.close()


def find(memory: MemoryManager, embedder: Embedder, plan: Plan, scope: Scope = SCOPE) -> list[Hit]:
    """Carry out a plan."""

    async def main() -> list[Hit]:
        retriever = Retriever(LocalMemory(memory), LocalEmbedder(embedder))
        return list(await retriever.retrieve(plan, scope))

    return asyncio.run(main())


def plan(query: str, strategy: Strategy = "hybrid", **more: object) -> Plan:
    """Return a plan."""
    made = Plan(strategy, CONTEXTUAL, 5, False, 1000, (), query)
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strategy", "searches"),
    [("lexical", {LEXICAL}), ("vector", {VECTOR}), ("hybrid", {LEXICAL, VECTOR})],
)
def test_strategy_is_the_one_carried_out(
    memory: MemoryManager, embedder: Embedder, strategy: Strategy, searches: set[str]
) -> None:
    hits = find(memory, embedder, plan("disk usage statistics", strategy))
    assert hits[0].record.source.title == "shutil.disk_usage"
    assert set(hits[0].found_by) == searches
    assert (hits[0].similarity is not None) == (VECTOR in searches)
    found = [search for hit in hits for search in hit.found_by]
    assert set(found) == searches


def test_words_find_what_meaning_does_not_and_the_other_way_round(
    memory: MemoryManager, embedder: Embedder
) -> None:
    assert (
        find(memory, embedder, plan("nbytes", "lexical"))[0].record.source.title
        == "secrets.token_hex"
    )
    query = "the middle one of some figures"
    assert find(memory, embedder, plan(query, "lexical")) == [] or (
        find(memory, embedder, plan(query, "lexical"))[0].record.source.title != "numpy.median"
    )
    assert find(memory, embedder, plan(query, "vector"))[0].record.source.title == "numpy.median"


def test_document_that_is_called_so_comes_first(memory: MemoryManager, embedder: Embedder) -> None:
    for name in ("shlex.quote", "np.median", "monthrange()"):
        hits = find(memory, embedder, RulePlanner().plan_now(f"What does {name} do?"))
        assert hits[0].record.source.title.endswith(name.removesuffix("()").rsplit(".", 1)[-1])


def test_session_is_searched_only_when_the_plan_says_so_and_only_one_s_own(
    memory: MemoryManager, embedder: Embedder
) -> None:
    layers = (Layer.SHORT_TERM, *CONTEXTUAL)
    inside = find(memory, embedder, plan("Is it safe?", layers=layers))
    exchange = next(hit for hit in inside if hit.record.kind is Kind.EXCHANGE)
    assert set(exchange.found_by) == {LEXICAL, VECTOR, RECENT}
    assert sum(hit.record.kind is Kind.EXCHANGE for hit in inside) == 1
    outside = find(memory, embedder, plan("Is it safe?"))
    other = find(memory, embedder, plan("Is it safe?", layers=layers), Scope("default", "other"))
    stranger = find(memory, embedder, plan("Is it safe?", layers=layers), Scope("x", "s"))
    for hits in (outside, other):
        assert hits
        assert all(hit.record.kind is not Kind.EXCHANGE for hit in hits)
    assert stranger == []


def hit(name: str, text: str = "", layer: Layer = Layer.CONTEXTUAL, **more: object) -> Hit:
    """Return a hit with a text of its own."""
    source = Source(f"doc://{name}", name)
    made = Record(name, layer, Kind.CHUNK, text or f"text of {name}", source)
    return Hit(dataclasses.replace(made, **more), 0.5, {})  # type: ignore[arg-type]


def test_rank_in_two_searches_beats_a_better_rank_in_one() -> None:
    a, b, c, d = (hit(name) for name in "abcd")
    found = fuse({LEXICAL: [a, b], VECTOR: [c, b, d]}, CONTEXTUAL)
    assert [one.record.id for one in found] == ["b", "a", "c", "d"]
    assert found[0].found_by == {LEXICAL: 2, VECTOR: 2}
    little = fuse({LEXICAL: [a, b], VECTOR: [c, b, d]}, CONTEXTUAL, lexical_weight=0.1)
    assert [one.record.id for one in little] == ["b", "c", "d", "a"]


def test_equal_texts_are_one_hit_of_the_most_trusted_layer_that_knows_all_its_finders() -> None:
    old = hit("old", "The  same TEXT.", Layer.LONG_TERM)
    new = hit("new", "the same text.", Layer.CONTEXTUAL)
    (found,) = fuse({LEXICAL: [old], VECTOR: [hit("x"), new]}, CONTEXTUAL)[:1]
    assert found.record.id == "new"
    assert found.found_by == {LEXICAL: 1, VECTOR: 2}


def test_not_having_known_is_no_knowledge() -> None:
    unknown = hit("e", "I do not know: nothing.", kind=Kind.EXCHANGE, question="Why?")
    assert fuse({VECTOR: [unknown]}, CONTEXTUAL) == []


def test_one_long_document_does_not_crowd_out_the_others() -> None:
    pieces = [hit(f"p{n}", source=Source("doc://long", "long", n)) for n in range(5)]
    ordered = various([*pieces, hit("other")])
    assert [one.record.id for one in ordered[:3]] == ["p0", "p1", "other"]
    assert len(ordered) == 6


@given(st.lists(st.integers(1, 60), max_size=8), st.integers(1, 120))
def test_budget_holds_and_the_best_is_never_left_out(lengths: list[int], budget: int) -> None:
    hits = [hit(f"h{n}", "word " * length + ".") for n, length in enumerate(lengths)]
    chosen = within_budget(hits, budget)
    assert bool(chosen) == bool(hits)
    if hits:
        assert chosen[0].record.id == "h0"
    for one in chosen[1:]:
        assert one in hits
    whole = [one for one in chosen if one in hits]
    assert sum(count_tokens(passage(one)) for one in whole) <= budget
