"""The values that the parts of the knowledge service hand to one another.

Plain frozen data: no part of the service needs another part's module to read them.
"""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Mapping
from typing import Literal

Value = str | int | float | bool
"""What a record's metadata may hold."""

Strategy = Literal["lexical", "vector", "hybrid"]


class Layer(str, enum.Enum):
    """Where a memory lives, and with that for whom and for how long."""

    SHORT_TERM = "short-term"
    """Of one session, newest first, bounded."""
    LONG_TERM = "long-term"
    """Facts and question/answer pairs of a tenant that outlive their session."""
    CONTEXTUAL = "contextual"
    """Knowledge ingested from outside."""


class Kind(str, enum.Enum):
    """What a record is."""

    CHUNK = "chunk"
    SUMMARY = "summary"
    FACT = "fact"
    EXCHANGE = "exchange"
    """A question and the answer it got."""


@dataclasses.dataclass(frozen=True)
class Scope:
    """Who asks: every read and write of memory names one.

    Args:
        tenant: never sees another tenant's records.
        session: whose short-term memory; None for none.
    """

    tenant: str = "default"
    session: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a record's text came from.

    Args:
        uri: stable name of the document, as "doc://numpy/numpy.linalg.norm".
        title: for people.
        position: the place of the piece in the document, from 0.
    """

    uri: str
    title: str
    position: int = 0


@dataclasses.dataclass(frozen=True)
class Record:
    """One remembered piece of text.

    Args:
        id: stable: made of what the record is, not of its embedding or of chance.
        text: what is shown and cited; of an exchange, the answer.
        question: of an exchange, the user's question as asked; empty otherwise.
        created_s: seconds since the epoch.
    """

    id: str
    layer: Layer
    kind: Kind
    text: str
    source: Source
    tenant: str = "default"
    session: str | None = None
    question: str = ""
    summary: str = ""
    created_s: float = dataclasses.field(default_factory=time.time)
    metadata: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which records: all given conditions hold; None means any.

    Args:
        metadata: equal values by key.
    """

    tenant: str | None = None
    session: str | None = None
    layers: tuple[Layer, ...] | None = None
    kinds: tuple[Kind, ...] | None = None
    uri: str | None = None
    ids: tuple[str, ...] | None = None
    metadata: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Hit:
    """A record that a search found.

    Args:
        score: higher is better; comparable only within one search.
        found_by: the searches that found it, with its rank in each, from 1.
        similarity: the cosine with the question, where a vector search found it.
    """

    record: Record
    score: float
    found_by: Mapping[str, int]
    similarity: float | None = None


@dataclasses.dataclass(frozen=True)
class Document:
    """A text from outside, whole.

    Args:
        uri: stable name, the same whenever and from wherever it is read.
        title: for people; searched as well.
    """

    uri: str
    title: str
    text: str
    metadata: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a question will be answered.

    Args:
        layers: searched, in order of trust.
        k: pieces handed to the generator.
        token_budget: of the context, in tokens as `text.count_tokens` counts them.
        reasons: why the planner chose so, a sentence each.
        query: what is searched for: the question, and what a follow-up left out of it.
        lexical_weight: in a hybrid search, what a rank by words counts beside one by meaning.
        follow_up: the question alone, if `query` also has the question before it; empty if not.
    """

    strategy: Strategy
    layers: tuple[Layer, ...]
    k: int
    summarise: bool
    token_budget: int
    reasons: tuple[str, ...] = ()
    query: str = ""
    lexical_weight: float = 1.0
    follow_up: str = ""


@dataclasses.dataclass(frozen=True)
class Citation:
    """What a sentence of an answer rests on."""

    record_id: str
    source: Source
    quote: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the asker gets.

    Args:
        known: False when nothing in memory answers the question; `text` then says so.
        hits: what the generator was given, best first.
        timings_ms: by stage: queue, plan, embed, retrieve, prompt, generate, remember.
        scope: whose question it was.
    """

    query_id: str
    question: str
    text: str
    known: bool
    citations: tuple[Citation, ...]
    plan: Plan
    hits: tuple[Hit, ...] = ()
    timings_ms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scope: Scope = dataclasses.field(default_factory=Scope)


class KnowledgeError(Exception):
    """Any error of the service that its user can act on."""


class QueueFull(KnowledgeError):
    """The queue holds as many queries as it may.

    Args:
        retry_after_s: when to try again.
    """

    def __init__(self, message: str, retry_after_s: float):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(KnowledgeError):
    """The query's deadline passed before its answer was made."""


class ShuttingDown(KnowledgeError):
    """The service no longer takes queries."""


class UnknownTrigger(KnowledgeError):
    """No ingestion route is registered for this trigger and source."""


class StoreError(KnowledgeError):
    """The memory's file cannot be used; the message says what to do."""


class SourceError(KnowledgeError):
    """A source of documents cannot be read, or what it holds is no document."""
