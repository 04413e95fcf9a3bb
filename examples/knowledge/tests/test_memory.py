"""Memory in layers: whose it is, how long it stays, and that a crash neither loses nor doubles any."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from making import DIMENSION, EMBEDDER, record, vectors

from knowledge.ingest.prepare import prepare
from knowledge.memory.manager import MemoryManager, exchange_id
from knowledge.memory.sqlite import SqliteStore
from knowledge.types import (
    Citation,
    Document,
    Filter,
    Kind,
    KnowledgeError,
    Layer,
    Scope,
    Source,
)

PROGRAM = Path(__file__).parent / "programs" / "killed_at.py"
SCOPE = Scope("t", "s")


def open_memory(path: Path, limit: int = 3) -> MemoryManager:
    return MemoryManager(SqliteStore(path, DIMENSION, EMBEDDER.name), EMBEDDER, limit)


@pytest.fixture
def memory(store_dir: Path) -> Iterator[MemoryManager]:
    made = open_memory(store_dir / "memory.db")
    yield made
    made.close()


def tell(memory: MemoryManager, scope: Scope, *numbers: int) -> list[str]:
    return [
        memory.remember(scope, f"question {n}", f"answer {n}", query_id=f"q{n}") for n in numbers
    ]


# --- Layers


def test_exchange_is_stored_as_asked_and_answered(memory: MemoryManager) -> None:
    question = 'Why?\n<b>"quoted"</b> {not} a %s prompt\ud800'
    cited = [Citation("r1", Source("doc://a", "a"), "quote")]
    name = memory.remember(SCOPE, question, "Because.", cited, "q")
    (stored,) = memory.recent(SCOPE, 5)
    assert stored.id == name == exchange_id(SCOPE, "q")
    assert stored.question == 'Why?\n<b>"quoted"</b> {not} a %s prompt?'
    assert (stored.text, stored.kind, stored.layer) == ("Because.", Kind.EXCHANGE, Layer.SHORT_TERM)
    assert json.loads(str(stored.metadata["citations"])) == [["r1", "doc://a"]]


def test_repeated_query_is_remembered_once(memory: MemoryManager) -> None:
    assert tell(memory, SCOPE, 1) == tell(memory, SCOPE, 1)
    assert len(memory.recent(SCOPE, 10)) == 1
    memory.flush(SCOPE)
    tell(memory, SCOPE, 1)
    assert memory.stats("t") == {"short-term": 0, "long-term": 1, "contextual": 0}


def test_turn_over_the_bound_goes_to_long_term_memory(memory: MemoryManager) -> None:
    tell(memory, SCOPE, *range(8))
    assert [r.question for r in memory.recent(SCOPE, 10)] == [f"question {n}" for n in (7, 6, 5)]
    assert memory.stats("t") == {"short-term": 3, "long-term": 5, "contextual": 0}
    # What left is found in another session of the tenant, what stayed is not.
    other = Scope("t", "other")
    assert [h.record.question for h in memory.matching(other, "question 0", 1)] == ["question 0"]
    found = {hit.record.question for hit in memory.matching(other, "question", 20)}
    assert found == {f"question {n}" for n in range(5)}


def test_same_question_in_two_sessions_is_two_memories(memory: MemoryManager) -> None:
    for session in ("a", "b"):
        memory.remember(Scope("t", session), "same", "same", query_id="q")
        memory.flush(Scope("t", session))
    assert memory.stats("t")["long-term"] == 2
    assert len(memory.nearest(Scope("t"), EMBEDDER.embed(["same\nsame"])[0], 5)) == 2


def test_flush_again_changes_nothing(memory: MemoryManager) -> None:
    tell(memory, SCOPE, 1, 2)
    assert memory.flush(SCOPE) == 2
    assert memory.flush(SCOPE) == 0
    assert memory.recent(SCOPE, 5) == []
    assert memory.stats("t") == {"short-term": 0, "long-term": 2, "contextual": 0}


def test_fact_is_kept_once_and_for_all_sessions(memory: MemoryManager) -> None:
    assert memory.remember_fact(SCOPE, "Water boils.") == memory.remember_fact(
        SCOPE, "Water boils."
    )
    (hit,) = memory.matching(Scope("t", "other"), "water", 5)
    assert (hit.record.kind, hit.record.layer) == (Kind.FACT, Layer.LONG_TERM)


def test_everything_is_there_after_a_restart(store_dir: Path) -> None:
    memory = open_memory(store_dir / "memory.db")
    tell(memory, SCOPE, *range(5))
    before = memory.recent(SCOPE, 9), memory.matching(SCOPE, "question", 9)
    memory.close()
    again = open_memory(store_dir / "memory.db")
    assert (again.recent(SCOPE, 9), again.matching(SCOPE, "question", 9)) == before
    again.close()


# --- Isolation


def test_no_search_sees_another_tenant_or_session(memory: MemoryManager) -> None:
    scopes = [Scope(t, s) for t in ("a", "b") for s in ("1", "2")]
    for scope in scopes:
        memory.remember(scope, "shared words", f"{scope.tenant}{scope.session}", query_id="q")
    mine = record("mine", "shared words", tenant="a")
    memory.store_records([mine], vectors(mine))
    names = [exchange_id(scope, "q") for scope in scopes]
    point = EMBEDDER.embed(["shared words"])[0]
    for scope in scopes:
        own = {exchange_id(scope, "q")} | ({"mine"} if scope.tenant == "a" else set())
        assert {h.record.id for h in memory.matching(scope, "shared", 20)} == own
        assert {h.record.id for h in memory.nearest(scope, point, 20)} == own
        assert {r.id for r in memory.get(scope, [*names, "mine"])} == own
        assert {r.id for r in memory.recent(scope, 20)} == own - {"mine"}
    without = Scope("a")
    assert memory.recent(without, 5) == []
    assert {h.record.id for h in memory.matching(without, "shared", 20)} == {"mine"}
    assert memory.nearest(without, point, 20, [Layer.SHORT_TERM]) == []
    assert [r.id for r in memory.get(without, [*names, "mine"])] == ["mine"]


def test_forgetting_stays_within_the_scope(memory: MemoryManager) -> None:
    for tenant in ("a", "b"):
        for session in ("1", "2"):
            tell(memory, Scope(tenant, session), 1, 2)
    for where in (Filter(tenant="b"), Filter(session="2")):
        with pytest.raises(KnowledgeError, match="cannot forget"):
            memory.forget(Scope("a", "1"), where)
    assert memory.forget_session(Scope("a", "1")) == 2
    assert memory.forget(Scope("a", "2"), Filter(ids=(exchange_id(Scope("b", "2"), "q1"),))) == 0
    assert memory.forget(Scope("a")) == 2
    assert memory.stats("a") == {"short-term": 0, "long-term": 0, "contextual": 0}
    assert memory.stats("b")["short-term"] == 4


def test_what_only_a_session_has_needs_a_session(memory: MemoryManager) -> None:
    for call in (
        lambda: memory.flush(Scope("t")),
        lambda: memory.forget_session(Scope("t")),
        lambda: memory.remember(Scope("t"), "q", "a", query_id="q"),
        lambda: memory.remember(SCOPE, "q", "a"),
        lambda: MemoryManager(None, None, 0),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError):
            call()


class Sessions(RuleBasedStateMachine):
    """Any order of turns, repeats, flushes and forgetting, beside a plain model of what must be."""

    scopes = st.sampled_from([Scope(t, s) for t in "ab" for s in "12"])
    limit = 3

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.mkdtemp()
        self.memory = open_memory(Path(self.directory) / "memory.db", self.limit)
        self.short: dict[Scope, list[str]] = {}
        self.long: dict[str, set[str]] = {}

    @rule(scope=scopes, number=st.integers(0, 9))
    def remember(self, scope: Scope, number: int) -> None:
        (name,) = tell(self.memory, scope, number)
        turns = self.short.setdefault(scope, [])
        long = self.long.setdefault(scope.tenant, set())
        if name in turns or name in long:
            return
        turns.append(name)
        if len(turns) > self.limit:
            long.add(turns.pop(0))

    @rule(scope=scopes)
    def flush(self, scope: Scope) -> None:
        turns = self.short.pop(scope, [])
        assert self.memory.flush(scope) == len(turns)
        self.long.setdefault(scope.tenant, set()).update(turns)

    @rule(scope=scopes)
    def forget_session(self, scope: Scope) -> None:
        assert self.memory.forget_session(scope) == len(self.short.pop(scope, []))

    @rule(tenant=st.sampled_from("ab"))
    def forget_tenant(self, tenant: str) -> None:
        self.memory.forget(Scope(tenant))
        self.long.pop(tenant, None)
        self.short = {s: turns for s, turns in self.short.items() if s.tenant != tenant}

    @invariant()
    def memory_holds_what_it_must(self) -> None:
        for tenant in "ab":
            for session in "12":
                scope = Scope(tenant, session)
                turns = [r.id for r in self.memory.recent(scope, 99)]
                assert turns == self.short.get(scope, [])[::-1]
            found = self.memory.matching(Scope(tenant), "question", 99, [Layer.LONG_TERM])
            assert {hit.record.id for hit in found} == self.long.get(tenant, set())
            assert len(found) == len(self.long.get(tenant, set()))

    def teardown(self) -> None:
        self.memory.close()
        shutil.rmtree(self.directory)


Sessions.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestSessions = Sessions.TestCase


# --- Killed at every statement


def killed_runs(path: Path, what: str) -> Iterator[Path]:
    """Yield a copy of a store after a process died before its 1st, 2nd, ... statement of WHAT.

    The last one is of a process that lived.
    """
    for nth in range(200):
        copy = path.parent.parent / f"{what}-{nth}"
        shutil.copytree(path.parent, copy)
        command = [sys.executable, str(PROGRAM), str(copy / path.name), what, str(nth)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        yield copy / path.name
        shutil.rmtree(copy)
        if done.returncode == 0:
            assert nth > 3
            return
    pytest.fail(f"{what} takes more than 200 statements")


def told(path: Path) -> Path:
    memory = open_memory(path)
    tell(memory, SCOPE, 1, 2, 3)
    document = Document("doc://d", "d", "\n\n".join(f"old part {n}. " * 60 for n in range(2)))
    memory.update_documents([prepare(document, "t", Layer.CONTEXTUAL, EMBEDDER)])
    memory.close()
    return path


def exchanges(memory: MemoryManager) -> dict[Layer, list[str]]:
    """Return the questions in each layer; vectors, words and rows must agree about them."""
    found = {}
    for layer in (Layer.SHORT_TERM, Layer.LONG_TERM):
        hits = memory.matching(SCOPE, "question", 99, [layer])
        near = memory.nearest(SCOPE, EMBEDDER.embed(["question"])[0], 99, [layer])
        assert {h.record.id for h in hits} == {h.record.id for h in near}
        assert len(hits) == len(near) == memory.stats("t")[layer.value]
        found[layer] = sorted(hit.record.question for hit in hits)
    memory._store.check()  # type: ignore[attr-defined]
    return found


OLD = ["question 1", "question 2", "question 3"]


def test_flush_killed_anywhere_loses_and_doubles_nothing(store_dir: Path) -> None:
    seen = []
    for path in killed_runs(told(store_dir / "memory.db"), "flush"):
        memory = open_memory(path)
        found = exchanges(memory)
        assert sorted(found.values()) == [[], OLD]
        seen.append(len(found[Layer.LONG_TERM]))
        memory.flush(SCOPE)
        assert exchanges(memory) == {Layer.SHORT_TERM: [], Layer.LONG_TERM: OLD}
        memory.close()
    assert seen == sorted(seen)
    assert set(seen) == {0, 3}


def test_turn_over_the_bound_killed_anywhere_loses_and_doubles_nothing(store_dir: Path) -> None:
    for path in killed_runs(told(store_dir / "memory.db"), "remember"):
        memory = open_memory(path)
        found = exchanges(memory)
        assert sorted(found[Layer.SHORT_TERM] + found[Layer.LONG_TERM]) in (
            OLD,
            ["new question", *OLD],
        )
        memory.remember(SCOPE, "new question", "new answer", query_id="new")
        assert exchanges(memory) == {
            Layer.SHORT_TERM: ["new question", "question 2", "question 3"],
            Layer.LONG_TERM: ["question 1"],
        }
        memory.close()


def test_forgetting_killed_anywhere_is_done_or_not_begun(store_dir: Path) -> None:
    for path in killed_runs(told(store_dir / "memory.db"), "forget"):
        memory = open_memory(path)
        assert exchanges(memory)[Layer.SHORT_TERM] in ([], OLD)
        memory.close()


def test_document_update_killed_anywhere_leaves_the_old_or_the_new_one(store_dir: Path) -> None:
    path = told(store_dir / "memory.db")
    versions = set()
    for copy in killed_runs(path, "update"):
        memory = open_memory(copy)
        hits = memory.matching(SCOPE, "part", 99, [Layer.CONTEXTUAL])
        texts = sorted({hit.record.text.split()[0] for hit in hits})
        assert len(texts) == 1
        assert len(hits) == memory.stats("t")["contextual"] > 0
        (digest,) = memory.document_digests(['["t", "contextual", "doc://d"]']).values()
        versions.add((texts[0], digest))
        memory._store.check()  # type: ignore[attr-defined]
        memory.close()
    assert sorted(text for text, _ in versions) == ["new", "old"]
