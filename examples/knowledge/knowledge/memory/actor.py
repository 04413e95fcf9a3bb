"""The one process that writes the memory: a named Ray actor, and the client that others use.

The actor comes back by itself when its process dies, and calls that it did not answer are repeated.
That doubles nothing, because every write is idempotent. Vectors are made by whoever calls: the actor
loads no model, so it is back within a second or two.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import ray
from ray.actor import ActorHandle

from knowledge.embedding import DEFAULT_EMBEDDER, Vectors, dimension_of
from knowledge.memory.manager import (
    ALL_LAYERS,
    SHORT_TERM_LIMIT,
    MemoryManager,
    embedded_text,
    make_exchange,
    text_for_embedding,
)
from knowledge.memory.sqlite import SqliteStore
from knowledge.memory.store import DocumentUpdate, UpdateCount
from knowledge.types import (
    Citation,
    Filter,
    Hit,
    KnowledgeError,
    Layer,
    Record,
    Scope,
)

NAME = "knowledge-memory"
NAMESPACE = "knowledge"
STORE_FILE = "memory.db"
# Searches at once; more of them would only share the same cores.
_THREADS = 8
Reply = TypeVar("Reply")


class MemoryActor(MemoryManager):
    """A `MemoryManager` over the default store.

    Args:
        directory: of the store, on the machine where the actor runs.
        embedder: name of the model that makes the vectors.
        short_term_limit: see `MemoryManager`.
    """

    def __init__(
        self,
        directory: str,
        embedder: str = DEFAULT_EMBEDDER,
        short_term_limit: int = SHORT_TERM_LIMIT,
    ) -> None:
        path = Path(directory) / STORE_FILE
        self._sqlite = SqliteStore(path, dimension_of(embedder), embedder)
        self._about = {
            "directory": directory,
            "embedder": embedder,
            "short_term_limit": short_term_limit,
        }
        super().__init__(self._sqlite, None, short_term_limit)

    def describe(self) -> dict[str, Any]:
        """Return what the actor was made with, and the id of its process."""
        return {**self._about, "pid": os.getpid()}

    def stats(self, tenant: str) -> dict[str, int]:
        """Return how many records the tenant has in each layer, and the bytes of all on disk."""
        return {**super().stats(tenant), "size_bytes": self._sqlite.size_bytes()}


def start_memory(
    directory: str | Path,
    embedder: str = DEFAULT_EMBEDDER,
    short_term_limit: int = SHORT_TERM_LIMIT,
    name: str = NAME,
) -> ActorHandle[Any]:
    """Return the memory's actor of this cluster; start it if there is none.

    It outlives the driver that started it; `stop_memory` ends it.

    Args:
        directory: where its store is, on this machine.

    Raises:
        KnowledgeError: the actor runs already, with another directory or other settings.
        StoreError: the store cannot be used.
    """
    wanted: dict[str, Any] = {
        "directory": str(Path(directory).resolve()),
        "embedder": embedder,
        "short_term_limit": short_term_limit,
    }
    if not _runs(name):
        # What is wrong with the store is said here, not in the log of a process that did not start.
        SqliteStore(
            Path(wanted["directory"]) / STORE_FILE, dimension_of(embedder), embedder
        ).close()
    made = ray.remote(MemoryActor).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=_THREADS,
    )
    actor = made.remote(**wanted)
    found = ray.get(actor.describe.remote())
    differing = {key: found[key] for key, value in wanted.items() if found[key] != value}
    if differing:
        raise KnowledgeError(f"the memory runs already, with {differing}; stop it first")
    return actor


def find_memory(name: str = NAME) -> ActorHandle[Any]:
    """Return the memory's actor of this cluster.

    Raises:
        KnowledgeError: it does not run.
    """
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise KnowledgeError("the memory's actor does not run in this cluster") from None


def stop_memory(name: str = NAME) -> None:
    """Close the store and end the actor; what it holds stays on disk. No actor, nothing to do."""
    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return
    try:
        ray.get(actor.close.remote(), timeout=30)
    finally:
        ray.kill(actor, no_restart=True)


class TextEmbedder(Protocol):
    """An embedder to wait for, such as a deployment's handle."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector of unit length a text, in order."""
        ...


class MemoryClient:
    """The memory for asynchronous callers; its methods are those of `MemoryManager`.

    While the actor comes back after its process died, calls wait.

    Args:
        actor: the memory's.
        embedder: makes the vectors of what is stored without one.
    """

    def __init__(self, actor: ActorHandle[Any], embedder: TextEmbedder) -> None:
        self._actor = actor
        self._embedder = embedder

    async def remember(
        self,
        scope: Scope,
        question: str,
        answer: str,
        citations: Sequence[Citation] = (),
        query_id: str = "",
    ) -> str:
        """See `MemoryManager.remember`."""
        # Made here, so that a repeated call stores the same record, with the same time.
        record = make_exchange(scope, question, answer, citations, query_id)
        vectors = await self._embedder.embed([embedded_text(record)])
        return await _reply(str, self._actor.remember_exchange.remote(record, vectors))

    async def remember_fact(self, scope: Scope, text: str, title: str = "") -> str:
        """See `MemoryManager.remember_fact`."""
        vectors = await self._embedder.embed([text_for_embedding(title, text)])
        return await _reply(
            str, self._actor.remember_fact.remote(scope, text, title, np.asarray(vectors)[0])
        )

    async def store_records(self, records: Sequence[Record], vectors: Vectors | None = None) -> int:
        """See `MemoryManager.store_records`."""
        if vectors is None and records:
            vectors = await self._embedder.embed([embedded_text(record) for record in records])
        return await _reply(int, self._actor.store_records.remote(list(records), vectors))

    async def update_documents(self, updates: Sequence[DocumentUpdate]) -> UpdateCount:
        """See `MemoryManager.update_documents`."""
        return await _reply(UpdateCount, self._actor.update_documents.remote(list(updates)))

    async def document_digests(self, document_ids: Sequence[str]) -> dict[str, str]:
        """See `MemoryManager.document_digests`."""
        return await _reply(dict, self._actor.document_digests.remote(list(document_ids)))

    async def recent(self, scope: Scope, limit: int) -> list[Record]:
        """See `MemoryManager.recent`."""
        return await _reply(list, self._actor.recent.remote(scope, limit))

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        """See `MemoryManager.get`."""
        return await _reply(list, self._actor.get.remote(scope, list(ids)))

    async def nearest(
        self, scope: Scope, vector: Vectors, k: int, layers: Sequence[Layer] = ALL_LAYERS
    ) -> list[Hit]:
        """See `MemoryManager.nearest`."""
        return await _reply(
            list, self._actor.nearest.remote(scope, np.asarray(vector), k, tuple(layers))
        )

    async def matching(
        self, scope: Scope, query: str, k: int, layers: Sequence[Layer] = ALL_LAYERS
    ) -> list[Hit]:
        """See `MemoryManager.matching`."""
        return await _reply(list, self._actor.matching.remote(scope, query, k, tuple(layers)))

    async def flush(self, scope: Scope) -> int:
        """See `MemoryManager.flush`."""
        return await _reply(int, self._actor.flush.remote(scope))

    async def forget(self, scope: Scope, where: Filter | None = None) -> int:
        """See `MemoryManager.forget`."""
        return await _reply(int, self._actor.forget.remote(scope, where))

    async def forget_session(self, scope: Scope) -> int:
        """See `MemoryManager.forget_session`."""
        return await _reply(int, self._actor.forget_session.remote(scope))

    async def stats(self, tenant: str) -> dict[str, int]:
        """See `MemoryActor.stats`."""
        return await _reply(dict, self._actor.stats.remote(tenant))


async def _reply(kind: type[Reply], reference: Awaitable[Any]) -> Reply:
    try:
        return cast(Reply, await reference)
    except ray.exceptions.RayTaskError as error:
        # As itself, not as Ray's stand-in for it, which tells of its journey.
        if isinstance(error.cause, KnowledgeError | ValueError):
            raise error.cause from None
        raise


def _runs(name: str) -> bool:
    try:
        find_memory(name)
    except KnowledgeError:
        return False
    return True
