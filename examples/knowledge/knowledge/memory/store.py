"""What the memory needs of a store: records with vectors, found by meaning or by words.

Another backend is a class with these methods; `SqliteStore` is the default. Every write is atomic,
and idempotent by what it names, so that a caller who does not know whether it happened repeats it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Protocol

from knowledge.embedding import Vectors
from knowledge.types import Filter, Hit, Layer, Record

# A store has a method `list`, which hides the type of that name from those after it.
Records = list[Record]
Hits = list[Hit]


def document_id(tenant: str, layer: Layer, uri: str) -> str:
    """Return the name of a document where it is in: each tenant and layer has its own."""
    return json.dumps([tenant, layer.value, uri], ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class DocumentUpdate:
    """Everything a document became, to be written whole.

    Args:
        digest: of the contents and of how they were cut; equal digests, equal records.
        records: what it is made of now, all of this tenant, layer and URI.
        vectors: one of unit length a record, in order.
    """

    tenant: str
    layer: Layer
    uri: str
    digest: str
    records: tuple[Record, ...]
    vectors: Vectors

    @property
    def document_id(self) -> str:
        """See `document_id`."""
        return document_id(self.tenant, self.layer, self.uri)

    @property
    def replaces(self) -> Filter:
        """Which records the document left before."""
        return Filter(tenant=self.tenant, layers=(self.layer,), uri=self.uri)


@dataclasses.dataclass(frozen=True)
class UpdateCount:
    """What writing documents changed.

    Args:
        written: documents that are new or have changed.
        skipped: documents that were there as they are.
        records: records written.
        replaced: records of earlier versions that are gone.
    """

    written: int = 0
    skipped: int = 0
    records: int = 0
    replaced: int = 0

    def __add__(self, other: UpdateCount) -> UpdateCount:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return UpdateCount(*(a + b for a, b in zip(mine, theirs, strict=True)))


class VectorStore(Protocol):
    """Records, a vector each, and their words. Methods may be called from several threads.

    Raises (every method):
        StoreError: the file is damaged, of another version, or cannot be written.
        ValueError: an argument is not what it must be.
    """

    def put(self, records: Sequence[Record], vectors: Vectors) -> int:
        """Write records, all or none; one whose id is there already is left as it is.

        Args:
            vectors: one of unit length a record, shape (len(records), dimension).

        Returns:
            How many were new.
        """
        ...

    def get(self, ids: Sequence[str]) -> Records:
        """Return the records with these ids, in the order asked; unknown ids are left out."""
        ...

    def list(self, where: Filter, limit: int, newest_first: bool = True) -> Records:
        """Return at most `limit` records, by when they were made."""
        ...

    def nearest(self, vector: Vectors, k: int, where: Filter) -> Hits:
        """Return the k records whose vectors are nearest, exactly; the score is the cosine."""
        ...

    def matching(self, query: str, k: int, where: Filter) -> Hits:
        """Return the k records that share most words with the query; the score is BM25.

        Any text is a legal query. One without words finds nothing.
        """
        ...

    def delete(self, where: Filter) -> int:
        """Remove records for good: text, vector and words are overwritten where they were.

        The documents that they came from count as not in from then on.

        Returns:
            How many were removed.
        """
        ...

    def move(
        self,
        ids: Sequence[str],
        to: Layer,
        derived: Sequence[tuple[Record, Vectors]] = (),
    ) -> int:
        """Move records to another layer and write what was derived of them, all or none.

        Returns:
            How many were not there already.
        """
        ...

    def update_documents(self, updates: Sequence[DocumentUpdate]) -> UpdateCount:
        """Write documents, all or none: old records go, new ones and the digest come together.

        A document whose digest is the one that is there is skipped.
        """
        ...

    def mark_document(self, document_id: str, digest: str) -> None:
        """Remember that a document with this digest is in."""
        ...

    def document_digest(self, document_id: str) -> str | None:
        """Return the digest of the document as it is in, None if it is not."""
        ...

    def document_digests(self, document_ids: Sequence[str]) -> dict[str, str]:
        """Return the digests of those of these documents that are in."""
        ...

    def count(self, where: Filter) -> int:
        """Return how many records there are."""
        ...

    def close(self) -> None:
        """Bring everything to the disk and let go of it; a second time does nothing."""
        ...
