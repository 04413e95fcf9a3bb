"""A running service with a small corpus, and a client of it, for the tests that share one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ray
from conftest import free_port

from knowledge import service
from knowledge.config import Settings
from knowledge.memory.actor import MemoryClient, start_memory, stop_memory
from knowledge.resources import ServeEmbedder, deployed_embedder
from knowledge.types import Kind, Layer, Record, Source

TEXTS = {
    "heapq.merge": "Merge multiple sorted inputs into a single sorted output. Similar to "
    "sorted(itertools.chain(*iterables)) but returns a generator, does not pull the data into memory "
    "all at once, and assumes that each of the input streams is already sorted.",
    "shutil.disk_usage": "Return disk usage statistics about the given path. Returned value is a named "
    "tuple with attributes 'total', 'used' and 'free', which are the amount of total, used and free "
    "space, in bytes.",
    "numpy.median": "Compute the median along the specified axis. Returns the median of the array "
    "elements.",
    "shlex.quote": "Return a shell-escaped version of the string s.",
    "calendar.monthrange": "Return weekday of first day of month (0-6 ~ Mon-Sun) and number of days "
    "(28-31) for year, month.",
    "secrets.token_hex": "Return a random text string, in hexadecimal. The string has nbytes random "
    "bytes, each byte converted to two hex digits.",
    "numpy.linalg.norm": "Matrix or vector norm. This function is able to return one of eight different "
    "matrix norms, or one of an infinite number of vector norms, depending on the value of the ord "
    "parameter.",
    "json.dumps": "Serialize obj to a JSON formatted str. If ensure_ascii is false, then the return "
    "value can contain non-ASCII and non-printable characters.",
}


@dataclasses.dataclass
class Served:
    """A running service.

    Attributes:
        url: of it.
        settings: that it runs with.
    """

    url: str
    settings: Settings

    def client(self, tenant: str = "default") -> httpx.Client:
        """Return a client in a tenant's name; no proxy of the shell stands between."""
        headers = {"X-Tenant": tenant}
        return httpx.Client(base_url=self.url, headers=headers, timeout=180, trust_env=False)

    def ask(self, question: str, tenant: str = "default", **more: Any) -> dict[str, Any]:
        """Return the reply to a question; the test fails if it is an error."""
        with self.client(tenant) as client:
            reply = client.post("/ask", json={"question": question, **more})
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


@contextlib.contextmanager
def served(directory: Path, **settings: Any) -> Iterator[Served]:
    """Run the service on the Ray that this process is connected to, for the `with` block."""
    made = Settings(
        directory=str(directory), port=free_port(), drain_s=10.0, embed_wait_ms=2.0, **settings
    )
    start_memory(made.directory, made.embedder, made.short_term_limit)
    try:
        service.start(made)
        store_texts("default")
        yield Served(f"http://127.0.0.1:{made.port}", made)
    finally:
        service.stop()
        stop_memory()


def store_texts(tenant: str) -> None:
    """Store TEXTS for a tenant, with the running service's embedder."""
    embedder = deployed_embedder()
    assert embedder is not None

    async def store(embedder: ServeEmbedder) -> int:
        actor = ray.get_actor("knowledge-memory", namespace="knowledge")
        return await MemoryClient(actor, embedder).store_records(
            [record(title, text, tenant) for title, text in TEXTS.items()]
        )

    assert asyncio.run(store(embedder)) == len(TEXTS)


def record(title: str, text: str, tenant: str = "default") -> Record:
    """Return a record of a document."""
    source = Source(f"doc://python/{title}", title)
    return Record(f"{tenant}-{title}", Layer.CONTEXTUAL, Kind.CHUNK, text, source, tenant)
