"""Memory in layers, above a store: whose a memory is, how long it stays, what it may be found by.

Every read and every removal names a `Scope`. A tenant never sees another's records, a session never
another session's short-term memory; the layers above the store cannot ask for more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Sequence

import numpy as np

from knowledge.embedding import Embedder, Vectors
from knowledge.memory.store import DocumentUpdate, UpdateCount, VectorStore
from knowledge.text import clean
from knowledge.types import (
    Citation,
    Filter,
    Hit,
    Kind,
    KnowledgeError,
    Layer,
    Record,
    Scope,
    Source,
)

SHORT_TERM_LIMIT = 50
ALL_LAYERS = tuple(Layer)
# Turns that a session has over its limit leave in one move; a session never has more in one.
_MOST_TURNS = 100_000


def stable_id(*parts: object) -> str:
    """Return an id made of what a record is: the same parts, the same id, on every machine."""
    named = json.dumps([str(part) for part in parts], ensure_ascii=False)
    return hashlib.blake2b(named.encode("utf-8", "replace"), digest_size=16).hexdigest()


def exchange_id(scope: Scope, query_id: str) -> str:
    """Return the id of the record of a query's exchange."""
    return stable_id("exchange", scope.tenant, scope.session, query_id)


def embedded_text(record: Record) -> str:
    """Return what of a record its vector is made of."""
    return text_for_embedding(record.question or record.source.title, record.text)


def text_for_embedding(heading: str, text: str) -> str:
    """Return a text with what it is about in front: much of what is meant is only said there."""
    return f"{heading}\n{text}" if heading else text


def make_exchange(
    scope: Scope, question: str, answer: str, citations: Sequence[Citation], query_id: str
) -> Record:
    """Return the record of a question and its answer, in the session's short-term memory.

    Raises:
        ValueError: the scope names no session, or the query no id.
    """
    if scope.session is None:
        raise ValueError("an exchange is remembered in a session; the scope names none")
    if not query_id:
        raise ValueError("an exchange needs the id of its query, so that it is remembered once")
    cited = json.dumps([[c.record_id, c.source.uri] for c in citations], ensure_ascii=False)
    return Record(
        id=exchange_id(scope, query_id),
        layer=Layer.SHORT_TERM,
        kind=Kind.EXCHANGE,
        text=clean(answer),
        source=Source(uri=f"session://{clean(scope.session)}", title="conversation"),
        tenant=scope.tenant,
        session=scope.session,
        question=clean(question),
        metadata={"query_id": clean(query_id), "citations": clean(cited)},
    )


class MemoryManager:
    """Stores, finds, removes and flushes memories. Methods may be called from several threads.

    Args:
        store: that keeps them.
        embedder: for texts that come without a vector; None if all come with one.
        short_term_limit: exchanges that a session keeps in short-term memory. The oldest above it
            go to the tenant's long-term memory; none is lost.
    """

    def __init__(
        self,
        store: VectorStore,
        embedder: Embedder | None = None,
        short_term_limit: int = SHORT_TERM_LIMIT,
    ) -> None:
        if short_term_limit < 1:
            raise ValueError(f"short_term_limit is at least 1, not {short_term_limit}")
        self._store = store
        self._embedder = embedder
        self._short_term_limit = short_term_limit
        # Two turns of one session at once must not both find the other's oldest one too many.
        self._turns = threading.Lock()

    # --- Remembering

    def remember(
        self,
        scope: Scope,
        question: str,
        answer: str,
        citations: Sequence[Citation] = (),
        query_id: str = "",
        vector: Vectors | None = None,
    ) -> str:
        """Store an exchange in the session's short-term memory, once for a query id.

        Args:
            question: as it was asked.
            vector: of `embedded_text`; made here if not given.

        Returns:
            The record's id.
        """
        record = make_exchange(scope, question, answer, citations, query_id)
        vectors = None if vector is None else np.asarray(vector).reshape(1, -1)
        return self.remember_exchange(record, vectors)

    def remember_exchange(self, record: Record, vectors: Vectors | None = None) -> str:
        """Store what `make_exchange` made; see `remember`."""
        vectors = self._vectors([record], vectors)
        with self._turns:
            self._store.put([record], vectors)
            self._keep_bound(Scope(record.tenant, record.session))
        return record.id

    def remember_fact(
        self, scope: Scope, text: str, title: str = "", vector: Vectors | None = None
    ) -> str:
        """Store a fact in the tenant's long-term memory, the same text once; return its id."""
        record = Record(
            id=stable_id("fact", scope.tenant, title, text),
            layer=Layer.LONG_TERM,
            kind=Kind.FACT,
            text=clean(text),
            source=Source(uri=f"fact://{stable_id(title, text)}", title=clean(title)),
            tenant=scope.tenant,
        )
        vectors = None if vector is None else np.asarray(vector).reshape(1, -1)
        self._store.put([record], self._vectors([record], vectors))
        return record.id

    def store_records(self, records: Sequence[Record], vectors: Vectors | None = None) -> int:
        """Write records, all or none; see `VectorStore.put`."""
        return self._store.put(records, self._vectors(records, vectors))

    def update_documents(self, updates: Sequence[DocumentUpdate]) -> UpdateCount:
        """Write documents, all or none; see `VectorStore.update_documents`."""
        return self._store.update_documents(updates)

    def document_digests(self, document_ids: Sequence[str]) -> dict[str, str]:
        """Return the digests of those of these documents that are in."""
        return self._store.document_digests(document_ids)

    # --- Finding

    def recent(self, scope: Scope, limit: int) -> list[Record]:
        """Return the session's latest exchanges in short-term memory, newest first."""
        if scope.session is None:
            return []
        return self._store.list(self._short_term(scope), limit)

    def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        """Return those of the records that the scope may see, in the order asked."""
        return [record for record in self._store.get(ids) if _may_see(scope, record)]

    def nearest(
        self, scope: Scope, vector: Vectors, k: int, layers: Sequence[Layer] = ALL_LAYERS
    ) -> list[Hit]:
        """Return the k records of these layers with the nearest vectors; scores are cosines."""
        found = [self._store.nearest(vector, k, where) for where in self._seen(scope, layers)]
        return _merge(found, "vector", k)

    def matching(
        self, scope: Scope, query: str, k: int, layers: Sequence[Layer] = ALL_LAYERS
    ) -> list[Hit]:
        """Return the k records of these layers that match any text's words best."""
        found = [self._store.matching(query, k, where) for where in self._seen(scope, layers)]
        return _merge(found, "lexical", k)

    # --- Moving on, and forgetting

    def flush(self, scope: Scope) -> int:
        """Move the session's short-term memory to the tenant's long-term memory, all or none.

        Again, or again after a crash, it moves what is left: nothing is lost, nothing doubled.

        Returns:
            How many exchanges were moved.

        Raises:
            ValueError: the scope names no session.
        """
        where = self._short_term(scope)
        with self._turns:
            turns = self._store.list(where, _MOST_TURNS, newest_first=False)
            return self._store.move([turn.id for turn in turns], Layer.LONG_TERM)

    def forget(self, scope: Scope, where: Filter | None = None) -> int:
        """Remove records of the tenant for good, of the session only if the scope names one.

        Args:
            where: which of them; all if not given.

        Returns:
            How many were removed.

        Raises:
            KnowledgeError: the filter names another tenant or session than the scope.
        """
        where = where or Filter()
        for named, own in ((where.tenant, scope.tenant), (where.session, scope.session)):
            if named is not None and own is not None and named != own:
                raise KnowledgeError(f"{own!r} cannot forget what is {named!r}'s")
        session = where.session if scope.session is None else scope.session
        return self._store.delete(dataclasses.replace(where, tenant=scope.tenant, session=session))

    def forget_session(self, scope: Scope) -> int:
        """Remove the session's short-term memory for good; return how many exchanges it was."""
        return self._store.delete(self._short_term(scope))

    def stats(self, tenant: str) -> dict[str, int]:
        """Return how many records the tenant has in each layer."""
        return {
            layer.value: self._store.count(Filter(tenant=tenant, layers=(layer,)))
            for layer in Layer
        }

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _keep_bound(self, scope: Scope) -> None:
        where = self._short_term(scope)
        surplus = self._store.count(where) - self._short_term_limit
        if surplus > 0:
            oldest = self._store.list(where, surplus, newest_first=False)
            self._store.move([record.id for record in oldest], Layer.LONG_TERM)

    @staticmethod
    def _short_term(scope: Scope) -> Filter:
        if scope.session is None:
            raise ValueError("short-term memory is a session's; the scope names none")
        return Filter(tenant=scope.tenant, session=scope.session, layers=(Layer.SHORT_TERM,))

    def _seen(self, scope: Scope, layers: Sequence[Layer]) -> list[Filter]:
        """Return the filters that together let through what the scope sees of these layers."""
        shared = tuple(layer for layer in dict.fromkeys(layers) if layer is not Layer.SHORT_TERM)
        filters = [Filter(tenant=scope.tenant, layers=shared)] if shared else []
        if Layer.SHORT_TERM in layers and scope.session is not None:
            filters.append(self._short_term(scope))
        return filters

    def _vectors(self, records: Sequence[Record], vectors: Vectors | None) -> Vectors:
        if vectors is not None:
            return vectors
        if self._embedder is None:
            raise ValueError("records come without vectors, and there is no embedder to make them")
        return self._embedder.embed([embedded_text(record) for record in records])


def _may_see(scope: Scope, record: Record) -> bool:
    if record.tenant != scope.tenant:
        return False
    return record.layer is not Layer.SHORT_TERM or (
        scope.session is not None and record.session == scope.session
    )


def _merge(found: Sequence[Sequence[Hit]], search: str, k: int) -> list[Hit]:
    """Return the best of several results of one kind of search; their scores have one measure."""
    hits = sorted((hit for hits in found for hit in hits), key=lambda hit: -hit.score)[:k]
    return [dataclasses.replace(hit, found_by={search: rank}) for rank, hit in enumerate(hits, 1)]
