"""Where operators get memory and embedder from: this process, or this process's Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

from knowledge.config import Settings
from knowledge.embedding import Embedder, Vectors, make_embedder
from knowledge.memory.actor import MemoryClient, start_memory
from knowledge.memory.manager import ALL_LAYERS, MemoryManager
from knowledge.operators import Resources
from knowledge.retrieval import TextEmbedder
from knowledge.types import Citation, Hit, Layer, Record, Scope

APPLICATION = "knowledge"
EMBEDDER = "Embedder"


class ServeEmbedder:
    """The embedder's deployment, to wait for.

    Args:
        handle: of the deployment.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See `TextEmbedder`."""
        return np.asarray(await self._handle.embed.remote(list(texts)), dtype=np.float32)


class LocalEmbedder:
    """An embedder of this process, in a thread of its own, so that its loop hears other things.

    Args:
        embedder: or its name.
    """

    def __init__(self, embedder: Embedder | str) -> None:
        self._embedder = make_embedder(embedder) if isinstance(embedder, str) else embedder
        # A model works on one batch at a time.
        self._turn = asyncio.Semaphore(1)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See `TextEmbedder`."""
        async with self._turn:
            return await asyncio.to_thread(self._embedder.embed, texts)


class LocalMemory:
    """A memory of this process, to wait for: for tests and measurements without Ray.

    Args:
        manager: that has it.
    """

    def __init__(self, manager: MemoryManager) -> None:
        self._manager = manager

    async def nearest(
        self, scope: Scope, vector: Vectors, k: int, layers: Sequence[Layer] = ALL_LAYERS
    ) -> list[Hit]:
        """See `Memory`."""
        return self._manager.nearest(scope, vector, k, layers)

    async def matching(
        self, scope: Scope, query: str, k: int, layers: Sequence[Layer] = ALL_LAYERS
    ) -> list[Hit]:
        """See `Memory`."""
        return self._manager.matching(scope, query, k, layers)

    async def recent(self, scope: Scope, limit: int) -> list[Record]:
        """See `Memory`."""
        return self._manager.recent(scope, limit)

    async def remember(
        self,
        scope: Scope,
        question: str,
        answer: str,
        citations: Sequence[Citation],
        query_id: str,
    ) -> str:
        """See `Memory`."""
        return self._manager.remember(scope, question, answer, citations, query_id)


def connect(settings: Settings, embedder: TextEmbedder) -> tuple[MemoryClient, Resources]:
    """Return the memory of this process's Ray, started if it does not run, and what operators need.

    Raises:
        KnowledgeError: the memory cannot be used, or runs with other settings.
    """
    actor = start_memory(settings.directory, settings.embedder, settings.short_term_limit)
    memory = MemoryClient(actor, embedder)
    return memory, Resources(memory, embedder, settings.endpoint, memory, settings.embedder)


def deployed_embedder() -> ServeEmbedder | None:
    """Return the embedder of the service that runs on this process's Ray, if one does."""
    try:
        handle: Any = serve.get_deployment_handle(EMBEDDER, APPLICATION)
        running = serve.status().applications.get(APPLICATION)
    except Exception:
        # Serve has no one error for "does not run here".
        return None
    return ServeEmbedder(handle) if running is not None else None
