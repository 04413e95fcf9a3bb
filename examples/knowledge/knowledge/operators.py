"""The operators that pipelines are made of: each takes one type of value and gives another.

An operator holds only its configuration, so that it can be sent to where it runs; what it works
with (memory, embedder, model) it gets there, when it is opened.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from knowledge.chat import ChatClient, Endpoint
from knowledge.generator import DEFAULT_THRESHOLD, ChatGenerator, ExtractiveGenerator, Generator
from knowledge.ingest import chunk
from knowledge.memory.manager import stable_id, text_for_embedding
from knowledge.memory.store import DocumentUpdate, UpdateCount, document_id
from knowledge.planner import (
    DEFAULT_K,
    DEFAULT_TOKEN_BUDGET,
    Choice,
    ModelPlanner,
    Planner,
    RulePlanner,
)
from knowledge.prompt import ANSWER_TEXT, AnswerFields, Prompt, Template, passage
from knowledge.retrieval import Memory, Retriever, TextEmbedder
from knowledge.timing import Timings
from knowledge.types import Answer, Document, Hit, Kind, KnowledgeError, Layer, Plan, Record, Scope
from knowledge.types import Source as DocumentSource

In = TypeVar("In")
Out = TypeVar("Out")
Nothing = type(None)
_HISTORY = 5


class DocumentMemory(Protocol):
    """What ingestion needs of the memory."""

    async def document_digests(self, document_ids: Sequence[str]) -> dict[str, str]:
        """Return the digests of those of these documents that are in."""
        ...

    async def update_documents(self, updates: Sequence[DocumentUpdate]) -> UpdateCount:
        """Write documents, all or none, each in place of what it left before."""
        ...


@dataclasses.dataclass(frozen=True)
class Resources:
    """What operators work with.

    Args:
        endpoint: of the language model, where one is set.
        documents: where documents go, where any are ingested.
        embedder_name: of the embedder; part of what makes a document the same.
    """

    memory: Memory
    embedder: TextEmbedder
    endpoint: Endpoint | None = None
    documents: DocumentMemory | None = None
    embedder_name: str = ""


# --- What flows between operators


@dataclasses.dataclass(frozen=True)
class Question:
    """A question on its way.

    Args:
        text: as asked.
        query_id: the same for a repeated attempt, so that its exchange is stored once.
        timings: of this query, all along its way.
    """

    text: str
    scope: Scope = dataclasses.field(default_factory=Scope)
    query_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    timings: Timings = dataclasses.field(default_factory=Timings, compare=False)


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """A question, its plan and what the plan found."""

    question: Question
    plan: Plan
    hits: tuple[Hit, ...]


@dataclasses.dataclass(frozen=True)
class Prompted:
    """A question with its prompt."""

    retrieved: Retrieved
    prompt: Prompt


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a document.

    Args:
        summary: empty until it is summarised.
    """

    text: str
    position: int
    summary: str = ""


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A document and its parts, in order."""

    document: Document
    pieces: tuple[Piece, ...]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A document that is in the memory.

    Args:
        pieces: written; 0 if it was there as it is.
    """

    uri: str
    pieces: int


# --- Operators


class Step(abc.ABC, Generic[In, Out]):
    """An operator at work, where it runs."""

    @abc.abstractmethod
    async def process(self, item: In) -> Sequence[Out]:
        """Return what becomes of a value: one value for most operators, none, or several."""

    async def close(self) -> None:
        """Let go of what the step holds."""


class Operator(abc.ABC, Generic[In, Out]):
    """A step of a pipeline, as it is configured.

    Attributes:
        takes: the type of value it works on; NoneType for a source.
        gives: the type of value it makes.
    """

    takes: ClassVar[type[Any]]
    gives: ClassVar[type[Any]]

    @property
    def name(self) -> str:
        """What errors and statuses call it."""
        return type(self).__name__

    @abc.abstractmethod
    def open(self, resources: Resources) -> Step[In, Out]:
        """Return the operator at work.

        Raises:
            KnowledgeError: something it works with is not there.
        """


class Source(Operator[None, Out]):
    """Where a pipeline's values come from."""

    takes = Nothing

    @abc.abstractmethod
    def items(self) -> AsyncIterator[Out]:
        """Yield values; a source that watches something never ends by itself."""

    def open(self, resources: Resources) -> Step[None, Out]:
        """A source starts a pipeline, it is no step of one."""
        raise KnowledgeError(f"{self.name} is a source and processes nothing")


@dataclasses.dataclass(frozen=True)
class Questions(Source[Question]):
    """Questions from a list.

    Args:
        texts: as asked.
        session: whose exchanges they become.
    """

    gives = Question
    texts: tuple[str, ...]
    tenant: str = "default"
    session: str | None = None

    async def items(self) -> AsyncIterator[Question]:
        """See `Source`."""
        for text in self.texts:
            yield Question(text, Scope(self.tenant, self.session))


@dataclasses.dataclass(frozen=True)
class Directory(Source[Document]):
    """Text files of a directory; with `poll_s`, also those that come or change later.

    Args:
        path: the directory, searched with all below it.
        pattern: which files, as `*.md`.
        poll_s: how often to look again, in seconds; None: look once.
    """

    gives = Document
    path: str
    pattern: str = "*.txt"
    poll_s: float | None = None

    async def items(self) -> AsyncIterator[Document]:
        """See `Source`.

        Raises:
            KnowledgeError: there is no such directory.
        """
        root = Path(self.path)
        if not root.is_dir():
            raise KnowledgeError(f"there is no directory {self.path}")
        seen: dict[Path, tuple[int, int]] = {}
        while True:
            for file in await asyncio.to_thread(_files, root, self.pattern):
                stamp = _stamp(file)
                if stamp is not None and seen.get(file) != stamp:
                    seen[file] = stamp
                    yield await asyncio.to_thread(_document, root, file)
            if self.poll_s is None:
                return
            await asyncio.sleep(self.poll_s)


@dataclasses.dataclass(frozen=True)
class Retrieve(Operator[Question, Retrieved]):
    """Plans and carries out the search for a question.

    Args:
        strategy: for every question, or "adaptive": the planner's choice.
        planner: "rules", or "model" to ask the endpoint.
        k: pieces for a plain question.
        token_budget: of the context.
    """

    takes = Question
    gives = Retrieved
    strategy: Choice = "adaptive"
    planner: Literal["rules", "model"] = "rules"
    k: int = DEFAULT_K
    token_budget: int = DEFAULT_TOKEN_BUDGET

    def open(self, resources: Resources) -> RetrieveStep:
        """See `Operator`."""
        rules = RulePlanner(self.strategy, self.k, self.token_budget)
        if self.planner == "rules":
            return RetrieveStep(resources, rules, None)
        chat = _chat(self, resources)
        return RetrieveStep(resources, ModelPlanner(chat, rules), chat)


class RetrieveStep(Step[Question, Retrieved]):
    """`Retrieve` at work.

    Args:
        chat: closed with it.
    """

    def __init__(self, resources: Resources, planner: Planner, chat: ChatClient | None) -> None:
        self._memory = resources.memory
        self._planner = planner
        self._retriever = Retriever(resources.memory, resources.embedder)
        self._chat = chat

    async def plan(self, question: Question) -> Plan:
        """Return the plan for a question, without searching."""
        with question.timings.stage("plan"):
            history = []
            if question.scope.session is not None:
                history = await self._memory.recent(question.scope, _HISTORY)
            return await self._planner.plan(question.text, history)

    async def process(self, item: Question) -> Sequence[Retrieved]:
        """See `Step`."""
        plan = await self.plan(item)
        hits = await self._retriever.retrieve(plan, item.scope, item.timings)
        return [Retrieved(item, plan, hits)]

    async def close(self) -> None:
        """See `Step`."""
        if self._chat is not None:
            await self._chat.close()


@dataclasses.dataclass(frozen=True)
class MakePrompt(Operator[Retrieved, Prompted]):
    """Fills the template with the question and what was found.

    Args:
        template: with {question} and {context}.

    Raises:
        PromptError: the template has other places.
    """

    takes = Retrieved
    gives = Prompted
    template: str = ANSWER_TEXT

    def __post_init__(self) -> None:
        Template(AnswerFields, self.template)

    def open(self, resources: Resources) -> Step[Retrieved, Prompted]:
        """See `Operator`."""
        return _MakePromptStep(Template(AnswerFields, self.template))


class _MakePromptStep(Step[Retrieved, Prompted]):
    def __init__(self, template: Template[AnswerFields]) -> None:
        self._template = template

    async def process(self, item: Retrieved) -> Sequence[Prompted]:
        question = item.question.text
        with item.question.timings.stage("prompt"):
            fields = AnswerFields(question, tuple(passage(hit) for hit in item.hits))
            text = self._template.render(fields)
            prompt = Prompt(question, item.hits, text, item.plan.summarise, item.plan.query)
        return [Prompted(item, prompt)]


@dataclasses.dataclass(frozen=True)
class Generate(Operator[Prompted, Answer]):
    """Makes the answer.

    Args:
        kind: "extractive", or "chat" to ask the endpoint.
        threshold: of the extractive generator.
    """

    takes = Prompted
    gives = Answer
    kind: Literal["extractive", "chat"] = "extractive"
    threshold: float = DEFAULT_THRESHOLD

    def open(self, resources: Resources) -> Step[Prompted, Answer]:
        """See `Operator`."""
        if self.kind == "extractive":
            return _GenerateStep(ExtractiveGenerator(resources.embedder, self.threshold), None)
        chat = _chat(self, resources)
        return _GenerateStep(ChatGenerator(chat), chat)


class _GenerateStep(Step[Prompted, Answer]):
    def __init__(self, generator: Generator, chat: ChatClient | None) -> None:
        self._generator = generator
        self._chat = chat

    async def process(self, item: Prompted) -> Sequence[Answer]:
        question = item.retrieved.question
        with question.timings.stage("generate"):
            made = await self._generator.generate(item.prompt)
        answer = Answer(
            query_id=question.query_id,
            question=question.text,
            text=made.text,
            known=made.known,
            citations=made.citations,
            plan=item.retrieved.plan,
            hits=item.prompt.hits,
            timings_ms=question.timings.as_dict(),
            scope=question.scope,
        )
        return [answer]

    async def close(self) -> None:
        if self._chat is not None:
            await self._chat.close()


@dataclasses.dataclass(frozen=True)
class MemoryWriter(Operator[Answer, Answer]):
    """Stores the exchange of a question and its answer in its session, once for a query id."""

    takes = Answer
    gives = Answer

    def open(self, resources: Resources) -> Step[Answer, Answer]:
        """See `Operator`."""
        return _MemoryWriterStep(resources.memory)


class _MemoryWriterStep(Step[Answer, Answer]):
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def process(self, item: Answer) -> Sequence[Answer]:
        if item.scope.session is None:
            return [item]
        timings = Timings()
        with timings.stage("remember"):
            await self._memory.remember(
                item.scope, item.question, item.text, item.citations, item.query_id
            )
        return [dataclasses.replace(item, timings_ms={**item.timings_ms, **timings.as_dict()})]


@dataclasses.dataclass(frozen=True)
class Chunk(Operator[Document, Pieces]):
    """Cuts a document into pieces that are found and cited.

    Args:
        tokens: of a piece, at most.
        least_tokens: a shorter rest joins the piece before it.
    """

    takes = Document
    gives = Pieces
    tokens: int = chunk.Cut.tokens
    least_tokens: int = chunk.Cut.least_tokens

    def __post_init__(self) -> None:
        chunk.Cut(self.tokens, self.least_tokens)

    def open(self, resources: Resources) -> Step[Document, Pieces]:
        """See `Operator`."""
        return _ChunkStep(chunk.Cut(self.tokens, self.least_tokens))


class _ChunkStep(Step[Document, Pieces]):
    def __init__(self, cut: chunk.Cut) -> None:
        self._cut = cut

    async def process(self, item: Document) -> Sequence[Pieces]:
        pieces = chunk.split(item.text, self._cut)
        return [Pieces(item, tuple(Piece(text, place) for place, text in enumerate(pieces)))]


@dataclasses.dataclass(frozen=True)
class Summarise(Operator[Pieces, Pieces]):
    """Says each piece in a sentence or two of its own.

    Args:
        sentences: at most.
    """

    takes = Pieces
    gives = Pieces
    sentences: int = chunk.Cut.summary_sentences

    def open(self, resources: Resources) -> Step[Pieces, Pieces]:
        """See `Operator`."""
        return _SummariseStep(self.sentences)


class _SummariseStep(Step[Pieces, Pieces]):
    def __init__(self, sentences: int) -> None:
        self._sentences = sentences

    async def process(self, item: Pieces) -> Sequence[Pieces]:
        pieces = tuple(
            dataclasses.replace(piece, summary=chunk.summarise(piece.text, self._sentences))
            for piece in item.pieces
        )
        return [dataclasses.replace(item, pieces=pieces)]


@dataclasses.dataclass(frozen=True)
class Store(Operator[Pieces, Stored]):
    """Writes a document's pieces, whole, in place of what it left before; the same document once.

    Args:
        layer: where they go.
        tenant: whose they are.
    """

    takes = Pieces
    gives = Stored
    layer: Literal["contextual", "long-term"] = "contextual"
    tenant: str = "default"

    def open(self, resources: Resources) -> Step[Pieces, Stored]:
        """See `Operator`."""
        if resources.documents is None:
            raise KnowledgeError(f"{self.name} has no memory to write documents to")
        return _StoreStep(Layer(self.layer), self.tenant, resources, resources.documents)


class _StoreStep(Step[Pieces, Stored]):
    def __init__(
        self, layer: Layer, tenant: str, resources: Resources, documents: DocumentMemory
    ) -> None:
        self._layer = layer
        self._tenant = tenant
        self._resources = resources
        self._documents = documents

    async def process(self, item: Pieces) -> Sequence[Stored]:
        uri = item.document.uri
        name = document_id(self._tenant, self._layer, uri)
        digest = self._digest(item)
        if (await self._documents.document_digests([name])).get(name) == digest:
            return [Stored(uri, 0)]
        texts = [text_for_embedding(item.document.title, piece.text) for piece in item.pieces]
        vectors = await self._resources.embedder.embed(texts)
        records = tuple(self._record(item.document, piece, digest) for piece in item.pieces)
        update = DocumentUpdate(self._tenant, self._layer, uri, digest, records, vectors)
        count = await self._documents.update_documents([update])
        return [Stored(uri, count.records)]

    def _digest(self, item: Pieces) -> str:
        """Return what differs when anything does that decides about the records."""
        told = [
            self._resources.embedder_name,
            item.document.title,
            dict(item.document.metadata),
            [[piece.text, piece.summary] for piece in item.pieces],
        ]
        return stable_id("document", json.dumps(told, sort_keys=True))

    def _record(self, document: Document, piece: Piece, digest: str) -> Record:
        place = piece.position
        return Record(
            id=stable_id("piece", self._tenant, self._layer.value, document.uri, digest, place),
            layer=self._layer,
            kind=Kind.FACT if self._layer is Layer.LONG_TERM else Kind.CHUNK,
            text=piece.text,
            source=DocumentSource(document.uri, document.title, place),
            tenant=self._tenant,
            summary=piece.summary,
            metadata=document.metadata,
        )


def _chat(operator: Operator[Any, Any], resources: Resources) -> ChatClient:
    if resources.endpoint is None:
        raise KnowledgeError(f"{operator.name} asks a language model, but no endpoint is set")
    return ChatClient(resources.endpoint)


def _files(root: Path, pattern: str) -> list[Path]:
    return sorted(file for file in root.rglob(pattern) if file.is_file())


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _document(root: Path, file: Path) -> Document:
    name = file.relative_to(root).as_posix()
    return Document(f"file://{root.name}/{name}", name, file.read_text(errors="replace"))
