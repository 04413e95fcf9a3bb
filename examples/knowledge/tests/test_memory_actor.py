"""The memory's actor: what happens to memories when its process dies while it is at work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from making import record

from knowledge.embedding import HashEmbedder, Vectors
from knowledge.memory.actor import (
    STORE_FILE,
    MemoryClient,
    find_memory,
    start_memory,
    stop_memory,
)
from knowledge.memory.sqlite import SqliteStore
from knowledge.types import Filter, KnowledgeError, Layer, Scope, StoreError

NAME = "test-memory"
EMBEDDER = "hash-16"
LIMIT = 5
TURNS = 40


class Waiting:
    """An embedder to wait for."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return HashEmbedder(16).embed(texts)


@pytest.fixture
def actor(ray_cluster: str, store_dir: Path) -> Iterator[Any]:
    stop_memory(NAME)
    yield start_memory(store_dir, EMBEDDER, LIMIT, NAME)
    stop_memory(NAME)


def kill(actor: Any) -> int:
    """End the actor's process as the kernel would; return its id."""
    pid = int(ray.get(actor.describe.remote())["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def test_memory_is_there_after_its_process_died(actor: Any) -> None:
    memory = MemoryClient(actor, Waiting())
    scope = Scope("t", "s")

    async def go() -> None:
        for n in range(8):
            await memory.remember(scope, f"question {n}", "answer", query_id=str(n))
        pid = kill(actor)
        assert [r.question for r in await memory.recent(scope, 9)] == [
            f"question {n}" for n in range(7, 2, -1)
        ]
        assert len(await memory.matching(scope, "question", 99)) == 8
        assert ray.get(actor.describe.remote())["pid"] != pid

    asyncio.run(go())


def test_killed_under_load_it_loses_and_doubles_nothing(actor: Any, store_dir: Path) -> None:
    """Turns, flushes, facts and records of many sessions, while the process is killed again and again."""
    memory = MemoryClient(actor, Waiting())
    scopes = [Scope(t, s) for t in ("a", "b") for s in ("1", "2", "3")]

    answered = 0

    async def session(scope: Scope) -> None:
        nonlocal answered
        for n in range(TURNS):
            await memory.remember(scope, f"question {n}", "answer", query_id=str(n))
            if n % 9 == 8:
                await memory.flush(scope)
            if n % 10 == 0:
                await memory.remember_fact(scope, f"fact {n} of {scope.session}")
                made = record(f"{scope}{n}", "record", tenant=scope.tenant)
                await memory.store_records([made])
            await memory.nearest(scope, HashEmbedder(16).embed(["question"])[0], 3)
            answered += 1

    async def killing() -> None:
        for nth in range(1, 4):
            while answered < nth * len(scopes) * TURNS // 4:
                await asyncio.sleep(0.01)
            os.kill((await actor.describe.remote())["pid"], signal.SIGKILL)

    async def go() -> None:
        await asyncio.gather(killing(), *map(session, scopes))

    asyncio.run(go())
    stop_memory(NAME)
    store = SqliteStore(store_dir / STORE_FILE, 16, EMBEDDER)
    store.check()
    for scope in scopes:
        where = Filter(tenant=scope.tenant, session=scope.session)
        turns = store.list(where, 1000, newest_first=False)
        assert sorted(r.question for r in turns) == sorted(f"question {n}" for n in range(TURNS))
        short = store.list(
            Filter(tenant=scope.tenant, session=scope.session, layers=(Layer.SHORT_TERM,)), 99
        )
        assert [r.question for r in short] == [f"question {n}" for n in (39, 38, 37, 36)]
    for tenant in ("a", "b"):
        assert (
            store.count(
                Filter(
                    tenant=tenant, ids=tuple(f"{s}{n}" for s in scopes for n in range(0, TURNS, 10))
                )
            )
            == 12
        )
        assert store.count(Filter(tenant=tenant)) == 3 * TURNS + 3 * 4 + 12
        near = store.nearest(HashEmbedder(16).embed(["x"])[0], 999, Filter(tenant=tenant))
        assert len(near) == store.count(Filter(tenant=tenant))
    store.close()


def test_second_start_finds_the_first_one(actor: Any, store_dir: Path, tmp_path: Path) -> None:
    again = start_memory(store_dir, EMBEDDER, LIMIT, NAME)
    assert ray.get(again.describe.remote()) == ray.get(find_memory(NAME).describe.remote())
    with pytest.raises(KnowledgeError, match="runs already, with"):
        start_memory(tmp_path / "other", EMBEDDER, LIMIT, NAME)


def test_store_of_no_use_is_an_error_where_it_is_started(ray_cluster: str, store_dir: Path) -> None:
    stop_memory(NAME)
    store_dir.mkdir()
    (store_dir / STORE_FILE).write_bytes(b"no database at all" * 99)
    with pytest.raises(StoreError, match="damaged or no SQLite file"):
        start_memory(store_dir, EMBEDDER, LIMIT, NAME)
    with pytest.raises(KnowledgeError, match="does not run"):
        find_memory(NAME)
    stop_memory(NAME)


def test_error_of_the_memory_reaches_its_asker_as_itself(actor: Any) -> None:
    memory = MemoryClient(actor, Waiting())
    with pytest.raises(KnowledgeError, match="cannot forget"):
        asyncio.run(memory.forget(Scope("a"), Filter(tenant="b")))
    with pytest.raises(ValueError, match="k must be"):
        asyncio.run(memory.nearest(Scope("a"), HashEmbedder(16).embed(["x"])[0], 0))
