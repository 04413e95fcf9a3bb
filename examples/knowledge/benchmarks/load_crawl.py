"""The crawl of load.py: an actor that fetches pages into Ray's objects, ahead of who ingests them.

The pages are the made-up ones of `knowledge.corpus`. They are taken in order of importance, which
is not that in which they were fetched, and given up as they are taken; one in twenty is set aside
for another night and stays.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from knowledge import corpus
from knowledge.ingest.sources import page_document
from knowledge.types import Document

PAGE_BYTES = 1_000_000
SET_ASIDE_EVERY = 20
# How far the crawl runs ahead: more than the object store holds.
BACKLOG = 220
_TAKES_A_SHARD = 4


@ray.remote(num_cpus=0, max_concurrency=4)
class Crawl:
    """Fetches pages in a thread, as far ahead as BACKLOG allows.

    Args:
        pages: to be fetched in all.
    """

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self._changed = threading.Condition()
        self._waiting: list[tuple[str, Any]] = []
        self._aside: list[Any] = []
        self._chance = random.Random(1)
        self._fetching = threading.Thread(target=self._fetch, daemon=True)
        self._fetching.start()

    def take(self) -> tuple[str, list[Any]]:
        """Return the URI and, in a list, the reference of the page that matters most now."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            uri, page = self._waiting.pop(self._chance.randrange(len(self._waiting)))
            self._changed.notify_all()
        return uri, [page]

    def count_aside(self) -> int:
        """Return how many pages were set aside."""
        return len(self._aside)

    def _fetch(self) -> None:
        for number in range(self._pages):
            uri, page = corpus.crawl_page(number, PAGE_BYTES)
            stored = ray.put(page.encode())
            if number % SET_ASIDE_EVERY == 0:
                self._aside.append(stored)
                continue
            with self._changed:
                self._changed.wait_for(lambda: len(self._waiting) < BACKLOG)
                self._waiting.append((uri, stored))
                self._changed.notify_all()


@dataclasses.dataclass(frozen=True)
class CrawledSource:
    """What a `Crawl` has fetched, as a source of documents.

    Args:
        crawl: the actor.
        pages: how many there are to take.
    """

    crawl: Any
    pages: int

    def shards(self) -> Sequence[int]:
        """See `DocumentSource`: how many pages to take."""
        starts = range(0, self.pages, _TAKES_A_SHARD)
        return [min(_TAKES_A_SHARD, self.pages - start) for start in starts]

    def read(self, shard: int) -> Iterator[Document]:
        """See `DocumentSource`."""
        for _ in range(shard):
            uri, (page,) = ray.get(self.crawl.take.remote())
            yield page_document(uri, ray.get(page).decode())
