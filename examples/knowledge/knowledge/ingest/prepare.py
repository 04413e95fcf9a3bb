"""What a document becomes: pieces with summaries and vectors, under ids that are always the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from knowledge.embedding import Embedder, Vectors
from knowledge.ingest import chunk
from knowledge.ingest.chunk import DEFAULT_CUT, Cut
from knowledge.memory.manager import stable_id, text_for_embedding
from knowledge.memory.store import DocumentUpdate, document_id
from knowledge.types import Document, Kind, Layer, Record, Source


@dataclasses.dataclass(frozen=True)
class Target:
    """Where documents go, and how they are made ready for it.

    Args:
        embedder: name of the model that makes the vectors.
    """

    tenant: str
    layer: Layer
    embedder: str
    cut: Cut

    def document_id(self, uri: str) -> str:
        """Return the name of a document there."""
        return document_id(self.tenant, self.layer, uri)

    def digest(self, document: Document) -> str:
        """Return what differs when anything does that decides about the records."""
        how = [chunk.VERSION, self.embedder, *dataclasses.astuple(self.cut)]
        what = [document.title, document.text, dict(document.metadata)]
        told = json.dumps([how, what], sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

    def update(
        self,
        document: Document,
        digest: str,
        pieces: Sequence[tuple[str, str]],
        vectors: Vectors,
    ) -> DocumentUpdate:
        """Return what is to be written of a document.

        Args:
            digest: see `digest`.
            pieces: text and summary of each, in order.
            vectors: one a piece.
        """
        records = tuple(
            Record(
                id=stable_id("piece", self.tenant, self.layer.value, document.uri, digest, place),
                layer=self.layer,
                kind=Kind.FACT if self.layer is Layer.LONG_TERM else Kind.CHUNK,
                text=text,
                source=Source(document.uri, document.title, place),
                tenant=self.tenant,
                summary=summary,
                metadata=document.metadata,
            )
            for place, (text, summary) in enumerate(pieces)
        )
        return DocumentUpdate(self.tenant, self.layer, document.uri, digest, records, vectors)


def prepare(
    document: Document, tenant: str, layer: Layer, embedder: Embedder, cut: Cut = DEFAULT_CUT
) -> DocumentUpdate:
    """Return what a document becomes, here and now, without Ray."""
    where = Target(tenant, layer, embedder.name, cut)
    pieces = pieces_of(document, cut)
    texts = [text_for_embedding(document.title, text) for text, _ in pieces]
    return where.update(document, where.digest(document), pieces, embedder.embed(texts))


def pieces_of(document: Document, cut: Cut) -> list[tuple[str, str]]:
    """Return a document's pieces with their summaries."""
    return [
        (piece, chunk.summarise(piece, cut.summary_sentences))
        for piece in chunk.split(document.text, cut)
    ]
