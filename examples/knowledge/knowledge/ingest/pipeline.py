"""Ingestion: source -> chunk -> summarise -> embed -> write, on Ray Data.

A document is written whole, with the mark that it is in, in one transaction. So a run that was killed
anywhere is simply run again: what is in is skipped before it is cut or embedded. A document that
changed replaces what it left before.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data
from ray import cloudpickle
from ray.actor import ActorHandle

from knowledge.embedding import dimension_of, make_embedder
from knowledge.ingest import sources
from knowledge.ingest.chunk import DEFAULT_CUT, Cut
from knowledge.ingest.prepare import Target, pieces_of
from knowledge.ingest.routes import ROUTES, DocumentSource, IngestRequest, Routes
from knowledge.memory.actor import find_memory
from knowledge.memory.manager import text_for_embedding
from knowledge.memory.store import DocumentUpdate, UpdateCount
from knowledge.types import Document, KnowledgeError, Layer

# The default routes come with the sources.
assert sources is not None

Batch = dict[str, Any]
_MOST_BLOCKS = 1000
# Documents that are embedded, and written in one transaction, together.
_DOCUMENTS_A_BATCH = 16
_DOCUMENTS_A_WRITE = 32
_DOCUMENTS_A_LOOK = 64
# All but the embedders do little; they must find room beside them on one CPU.
_LITTLE_CPU = 0.1


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        documents: that are dealt with: written or skipped.
        written: of these, new or changed.
        skipped: of these, in already as they are.
        pieces: written.
        replaced: pieces of earlier versions that are gone.
        elapsed_s: since the run began.
    """

    documents: int
    written: int
    skipped: int
    pieces: int
    replaced: int
    elapsed_s: float


@dataclasses.dataclass(frozen=True)
class IngestOptions:
    """How a run works.

    Args:
        embedders: processes that embed.
        embedder_cpus: of each.
    """

    cut: Cut = DEFAULT_CUT
    embedders: int = 1
    embedder_cpus: float = 0.9


DEFAULT_OPTIONS = IngestOptions()


def ingest(
    request: IngestRequest,
    actor: ActorHandle[Any] | None = None,
    *,
    options: IngestOptions = DEFAULT_OPTIONS,
    on_progress: Callable[[Progress], None] | None = None,
    routes: Routes = ROUTES,
) -> Progress:
    """Ingest what a request names into the memory; return what was done when it is in.

    Args:
        actor: the memory's; the one of this cluster if not given.
        on_progress: told after every few documents.

    Raises:
        UnknownTrigger: no route leads from the request's trigger and source.
        SourceError: the source is not there, or holds what is no document. What was written by
            then stays, and is skipped the next time.
    """
    route = routes.resolve(request.trigger, request.source)
    source = route.open(request.options)
    return ingest_source(
        source, route.layer, request.tenant, actor, options=options, on_progress=on_progress
    )


def ingest_source(
    source: DocumentSource,
    layer: Layer = Layer.CONTEXTUAL,
    tenant: str = "default",
    actor: ActorHandle[Any] | None = None,
    *,
    options: IngestOptions = DEFAULT_OPTIONS,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Ingest a source's documents into a layer; see `ingest`."""
    began = time.monotonic()
    actor = find_memory() if actor is None else actor
    shards = source.shards()
    total = UpdateCount()
    progress = _progress(total, began)
    if not shards:
        return progress
    embedder = ray.get(actor.describe.remote())["embedder"]
    where = Target(tenant, layer, embedder, options.cut)
    data = _pipeline(source, shards, where, actor, options)
    try:
        for batch in data.iter_batches(batch_size=None, batch_format="numpy"):
            for row in zip(*(batch[name].tolist() for name in _COUNTS), strict=True):
                total += UpdateCount(*row)
            progress = _progress(total, began)
            if on_progress is not None:
                on_progress(progress)
    except ray.exceptions.RayError as error:
        raise _cause(error) from error
    return progress


# --- The pipeline. Rows are documents, so that one is written whole.

_COUNTS = tuple(field.name for field in dataclasses.fields(UpdateCount))


def _pipeline(
    source: DocumentSource,
    shards: Sequence[Any],
    where: Target,
    actor: ActorHandle[Any],
    options: IngestOptions,
) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    items = [{"shard": cloudpickle.dumps(shard)} for shard in shards]
    blocks = min(len(items), _MOST_BLOCKS)
    return (
        ray.data.from_items(items, override_num_blocks=blocks)
        .map_batches(
            _read,
            batch_size=1,
            fn_kwargs={"source": cloudpickle.dumps(source), "where": where, "actor": actor},
            num_cpus=_LITTLE_CPU,
        )
        .map_batches(
            _cut,
            # Whatever came together: a number would make Ray read as many shards at once.
            batch_size=None,
            batch_format="numpy",
            fn_kwargs={"where": where},
            num_cpus=_LITTLE_CPU,
        )
        .map_batches(
            _Embed,
            batch_size=_DOCUMENTS_A_BATCH,
            fn_constructor_args=(where.embedder,),
            compute=ray.data.ActorPoolStrategy(size=options.embedders),
            num_cpus=options.embedder_cpus,
        )
        .map_batches(
            _write,
            batch_size=_DOCUMENTS_A_WRITE,
            fn_kwargs={"where": where, "actor": actor},
            num_cpus=_LITTLE_CPU,
        )
    )


def _read(batch: Batch, source: bytes, where: Target, actor: ActorHandle[Any]) -> Iterator[Batch]:
    """Read shards; a document that is in as it is goes on without its text, to be counted."""
    opened: DocumentSource = cloudpickle.loads(source)
    waiting: list[Document] = []
    for shard in batch["shard"].tolist():
        for document in opened.read(cloudpickle.loads(shard)):
            waiting.append(document)
            if len(waiting) == _DOCUMENTS_A_LOOK:
                yield _compared(waiting, where, actor)
                waiting = []
    if waiting:
        yield _compared(waiting, where, actor)


def _compared(documents: Sequence[Document], where: Target, actor: ActorHandle[Any]) -> Batch:
    ids = [where.document_id(document.uri) for document in documents]
    known = ray.get(actor.document_digests.remote(ids))
    digests = [where.digest(document) for document in documents]
    fresh = [known.get(name) != digest for name, digest in zip(ids, digests, strict=True)]
    texts = [document.text if new else "" for document, new in zip(documents, fresh, strict=True)]
    return {
        "uri": _strings([document.uri for document in documents]),
        "title": _strings([document.title for document in documents]),
        "metadata": _strings([json.dumps(dict(document.metadata)) for document in documents]),
        "digest": _strings(digests),
        "fresh": np.array(fresh),
        "text": _strings(texts),
    }


def _cut(batch: Batch, where: Target) -> Batch:
    pieces = [json.dumps(pieces_of(document, where.cut)) for document in _documents(batch)]
    kept = {name: batch[name] for name in ("uri", "title", "metadata", "digest", "fresh")}
    return {**kept, "pieces": _strings(pieces)}


class _Embed:
    """The stage that embeds: loads its model once."""

    def __init__(self, embedder: str) -> None:
        self._embedder = make_embedder(embedder)

    def __call__(self, batch: Batch) -> Batch:
        texts: list[str] = []
        sizes: list[int] = []
        for title, told in zip(batch["title"].tolist(), batch["pieces"].tolist(), strict=True):
            pieces = json.loads(told)
            texts += [text_for_embedding(title, text) for text, _ in pieces]
            sizes.append(len(pieces))
        vectors = np.split(self._embedder.embed(texts), np.cumsum(sizes)[:-1])
        packed = np.empty(len(vectors), dtype=object)
        packed[:] = [part.tobytes() for part in vectors]
        return {**batch, "vectors": packed}


def _write(batch: Batch, where: Target, actor: ActorHandle[Any]) -> Batch:
    """Write documents in one transaction; a row says what that changed."""
    rows = zip(
        _documents(batch),
        *(batch[name].tolist() for name in ("digest", "fresh", "pieces", "vectors")),
        strict=True,
    )
    updates: list[DocumentUpdate] = []
    dimension = dimension_of(where.embedder)
    for document, digest, fresh, told, packed in rows:
        if fresh:
            pieces = [(text, summary) for text, summary in json.loads(told)]
            vectors = np.frombuffer(packed, dtype=np.float32).reshape(-1, dimension)
            updates.append(where.update(document, digest, pieces, vectors))
    count = UpdateCount(skipped=len(batch["uri"]) - len(updates))
    if updates:
        count += ray.get(actor.update_documents.remote(updates))
    return {name: np.array([value]) for name, value in dataclasses.asdict(count).items()}


def _documents(batch: Batch) -> Iterator[Document]:
    texts = batch["text"].tolist() if "text" in batch else [""] * len(batch["uri"])
    columns = (batch[name].tolist() for name in ("uri", "title", "metadata"))
    for uri, title, metadata, text in zip(*columns, texts, strict=True):
        yield Document(uri, title, text, json.loads(metadata))


def _strings(values: Sequence[str]) -> Any:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _progress(total: UpdateCount, began: float) -> Progress:
    return Progress(
        documents=total.written + total.skipped,
        written=total.written,
        skipped=total.skipped,
        pieces=total.records,
        replaced=total.replaced,
        elapsed_s=time.monotonic() - began,
    )


def _cause(error: BaseException) -> KnowledgeError:
    """Return the error that a stage raised, if it is one of ours, or one that tells of it."""
    told: BaseException | None = error
    while told is not None:
        # Ray's own stand-in for an error is of its type too, but says where it travelled.
        if isinstance(told, KnowledgeError) and not isinstance(told, ray.exceptions.RayError):
            return told
        cause = getattr(told, "cause", None)
        told = cause if isinstance(cause, BaseException) else told.__cause__
    return KnowledgeError(f"ingestion failed: {error}")
