"""Carries out a plan: searches the memory by words, by meaning or by both, and fits the budget.

What several searches find is one hit that says which found it and at what rank. Ranks, not scores,
are combined (reciprocal rank fusion): a cosine and a BM25 score have no common measure.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from knowledge.embedding import Vectors
from knowledge.planner import identifiers
from knowledge.prompt import passage
from knowledge.text import count_tokens, sentences
from knowledge.timing import Timings
from knowledge.types import Citation, Hit, Kind, Layer, Plan, Record, Scope

UNKNOWN = "I do not know"
"""How an answer that answers nothing begins."""

LEXICAL, VECTOR, RECENT, FOLLOW_UP = "lexical", "vector", "recent", "follow-up"
# The rank at which a hit counts half as much as the first; 60 is the usual choice.
_FUSION = 60.0
# How much each further layer in the order of trust counts less.
_DISTRUST = 0.05
# What a document gains that is called as the question says: more than any rank, or as a good one.
_CALLED, _CALLED_ALIKE = 0.05, 0.01
# Searches return this many times k, because what two of them found counts more than either's rank.
_DEPTH = 4
_LEAST_DEPTH = 20
_RECENT_EXCHANGES = 3
_PIECES_OF_A_DOCUMENT = 2


class TextEmbedder(Protocol):
    """An embedder to wait for, such as a deployment's handle."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector of unit length a text, in order."""
        ...


class Memory(Protocol):
    """What answering a question needs of the memory; every call names whose."""

    async def nearest(
        self, scope: Scope, vector: Vectors, k: int, layers: Sequence[Layer]
    ) -> list[Hit]:
        """Return the k records of these layers with the nearest vectors; scores are cosines."""
        ...

    async def matching(
        self, scope: Scope, query: str, k: int, layers: Sequence[Layer]
    ) -> list[Hit]:
        """Return the k records of these layers that match the query's words best."""
        ...

    async def recent(self, scope: Scope, limit: int) -> list[Record]:
        """Return the session's latest exchanges, newest first."""
        ...

    async def remember(
        self,
        scope: Scope,
        question: str,
        answer: str,
        citations: Sequence[Citation],
        query_id: str,
    ) -> str:
        """Store an exchange, once for a query id; return its record's id."""
        ...


class Retriever:
    """Finds what a plan asks for.

    Args:
        memory: searched.
        embedder: makes the question's vector.
    """

    def __init__(self, memory: Memory, embedder: TextEmbedder) -> None:
        self._memory = memory
        self._embedder = embedder

    async def retrieve(
        self, plan: Plan, scope: Scope, timings: Timings | None = None
    ) -> tuple[Hit, ...]:
        """Return the plan's hits, best first, within its number and its token budget.

        Args:
            plan: with the `query` to search for.
            timings: told the time of the stages "embed" and "retrieve".
        """
        timings = timings or Timings()
        vector: Vectors | None = None
        if plan.strategy != "lexical":
            with timings.stage("embed"):
                vector = (await self._embedder.embed([plan.query]))[0]
        with timings.stage("retrieve"):
            found = await self._search(plan, scope, vector)
            merged = fuse(found, plan.layers, identifiers(plan.query), plan.lexical_weight)
            return within_budget(various(merged)[: plan.k], plan.token_budget)

    async def _search(
        self, plan: Plan, scope: Scope, vector: Vectors | None
    ) -> dict[str, list[Hit]]:
        depth = max(_LEAST_DEPTH, plan.k * _DEPTH)
        searches = {}
        if plan.strategy != "vector":
            searches[LEXICAL] = self._memory.matching(scope, plan.query, depth, plan.layers)
            if plan.follow_up:
                # The words of the question before outnumber the new ones, which say what is asked.
                again = self._memory.matching(scope, plan.follow_up, depth, plan.layers)
                searches[FOLLOW_UP] = again
        if vector is not None:
            searches[VECTOR] = self._memory.nearest(scope, vector, depth, plan.layers)
        if plan.layers[0] is Layer.SHORT_TERM:
            searches[RECENT] = self._recent(scope)
        results = await asyncio.gather(*searches.values())
        return dict(zip(searches, results, strict=True))

    async def _recent(self, scope: Scope) -> list[Hit]:
        if scope.session is None:
            return []
        records = await self._memory.recent(scope, _RECENT_EXCHANGES)
        return [Hit(record, 0.0, {RECENT: rank}) for rank, record in enumerate(records, 1)]


def fuse(
    found: Mapping[str, Sequence[Hit]],
    layers: Sequence[Layer],
    names: Sequence[str] = (),
    lexical_weight: float = 1.0,
) -> list[Hit]:
    """Return what the searches found, each text once, best first.

    Args:
        found: hits, best first, by the search's name.
        layers: in order of trust; the first has the last word between equal texts.
        names: that the question names; documents called so come first.
        lexical_weight: what a rank by words counts, where a rank by meaning counts 1.
    """
    weights = {LEXICAL: lexical_weight} if VECTOR in found else {}
    called = tuple(name.casefold() for name in names)
    best: dict[str, Hit] = {}
    for search, hits in found.items():
        for rank, hit in enumerate(filter(_answers_something, hits), 1):
            similarity = hit.score if search == VECTOR else None
            seen = dataclasses.replace(hit, found_by={search: rank}, similarity=similarity)
            key = _fingerprint(hit.record)
            best[key] = _merge(best[key], seen, layers) if key in best else seen
    scored = [
        dataclasses.replace(hit, score=_score(hit, layers, weights) + _called(hit.record, called))
        for hit in best.values()
    ]
    # The id settles what scores alike, so that the same memory gives the same answer.
    return sorted(scored, key=lambda hit: (-hit.score, hit.record.id))


def various(hits: Sequence[Hit]) -> list[Hit]:
    """Return the hits with a document's third and further ones behind all others.

    A long document has many pieces that are alike; the answer may be in the document next to it.
    """
    counts: Counter[str] = Counter()
    first: list[Hit] = []
    rest: list[Hit] = []
    for hit in hits:
        uri = hit.record.source.uri
        counts[uri] += 1
        # The exchanges of a session are not pieces of one text.
        alike = hit.record.kind is not Kind.EXCHANGE and counts[uri] > _PIECES_OF_A_DOCUMENT
        (rest if alike else first).append(hit)
    return first + rest


def within_budget(hits: Sequence[Hit], token_budget: int) -> tuple[Hit, ...]:
    """Return the hits that fit, in order; of the first one, as many sentences as fit if not all."""
    chosen: list[Hit] = []
    left = token_budget
    for hit in hits:
        size = count_tokens(passage(hit))
        if size > left and not chosen:
            hit = _cut(hit, left)
            size = left
        if size <= left:
            chosen.append(hit)
            left -= size
    return tuple(chosen)


def _answers_something(hit: Hit) -> bool:
    return hit.record.kind is not Kind.EXCHANGE or not hit.record.text.startswith(UNKNOWN)


def _fingerprint(record: Record) -> str:
    text = " ".join(f"{record.question}\0{record.text}".casefold().split())
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()


def _merge(one: Hit, other: Hit, layers: Sequence[Layer]) -> Hit:
    ranks = dict(one.found_by)
    for search, rank in other.found_by.items():
        ranks[search] = min(rank, ranks.get(search, rank))
    known = [hit.similarity for hit in (one, other) if hit.similarity is not None]
    trusted = min((one, other), key=lambda hit: (_place(hit, layers), hit.record.id))
    return dataclasses.replace(trusted, found_by=ranks, similarity=max(known, default=None))


def _place(hit: Hit, layers: Sequence[Layer]) -> int:
    return layers.index(hit.record.layer) if hit.record.layer in layers else len(layers)


def _score(hit: Hit, layers: Sequence[Layer], weights: Mapping[str, float]) -> float:
    ranks = hit.found_by.items()
    fused = sum(weights.get(search, 1.0) / (_FUSION + rank) for search, rank in ranks)
    return fused * (1.0 - _DISTRUST * _place(hit, layers))


def _called(record: Record, names: Sequence[str]) -> float:
    """Return what a record gains because its document is called as one of these names."""
    title = record.source.title.casefold()
    # People write np.mean for numpy.mean, and monthrange for calendar.monthrange.
    exact = any(title == name or title.endswith(f".{name}") for name in names)
    alike = any(title.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1] for name in names)
    # What a document is begins with its first piece.
    first = 1.0 if record.source.position == 0 else 0.8
    return first * (_CALLED if exact else _CALLED_ALIKE if alike else 0.0)


def _cut(hit: Hit, token_budget: int) -> Hit:
    kept: list[str] = []
    for sentence in sentences(hit.record.text):
        shorter = dataclasses.replace(hit.record, text=" ".join([*kept, sentence]))
        if count_tokens(passage(dataclasses.replace(hit, record=shorter))) > token_budget:
            break
        kept.append(sentence)
    # A first sentence that is too long by itself is cut between words.
    text = " ".join(kept) or " ".join(hit.record.text.split()[: max(1, token_budget // 2)])
    return dataclasses.replace(hit, record=dataclasses.replace(hit.record, text=text))
