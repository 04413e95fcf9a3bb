"""An ingest driver to be killed: ingests a file of JSON lines and prints how far it is.

ingesting.py ADDRESS FILE ACTOR: reads slowly, so that there is time to kill it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import ray

from knowledge.ingest.pipeline import Progress, ingest_source
from knowledge.ingest.sources import JsonLinesSource
from knowledge.memory.actor import find_memory
from knowledge.types import Document


class Slowly(JsonLinesSource):
    """A file of JSON lines that comes bit by bit."""

    def read(self, shard: tuple[int, int]) -> Iterator[Document]:
        """See `DocumentSource`."""
        time.sleep(0.25)
        yield from super().read(shard)


def main() -> None:
    """See above."""
    address, path, name = sys.argv[1:4]
    ray.init(address=address, log_to_driver=False, configure_logging=False)

    def told(progress: Progress) -> None:
        print("written", progress.written, progress.skipped, flush=True)

    done = ingest_source(Slowly(path), actor=find_memory(name), on_progress=told)
    print("done", done.written, done.skipped, flush=True)


main()
