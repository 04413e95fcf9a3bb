"""SIGKILL of an ingest driver while the service is asked.

What it had written stays, the rest follows when it is run again, nothing is doubled.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from served import Served

from faults.asking import ask_many
from knowledge.ingest.pipeline import ingest_source
from knowledge.ingest.prepare import prepare
from knowledge.ingest.sources import DirectorySource
from knowledge.memory.actor import find_memory
from knowledge.types import Layer, Scope

TENANT = "library"
FILES = 150
START_TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of small text files, each different."""
    root: Path = tmp_path_factory.mktemp("library")
    for number in range(FILES):
        (root / f"book-{number:03}.txt").write_text(
            f"Book {number} is about lighthouses.\n\nIt stands on shelf {number % 17}, and was read"
            f" {number * 7} times."
        )
    return root


def written() -> int:
    """Return how many pieces the tenant's memory holds."""
    stats = ray.get(find_memory().stats.remote(TENANT))
    return int(stats[Layer.CONTEXTUAL.value])


def kill_midway(command: list[str]) -> int:
    """Run a driver, kill it when it has written something; return how many pieces were in then."""
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not written() and time.monotonic() < deadline_s:
            assert driver.poll() is None, f"the driver ended with {driver.returncode}"
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait()
    return written()


def test_killed_ingestion_is_taken_up_again_and_nothing_is_doubled(
    running: Served, ray_cluster: str, library: Path, embedder: object
) -> None:
    command = [
        sys.executable, "-m", "knowledge", "ingest", "--address", ray_cluster,
        "--directory", running.settings.directory, "--tenant", TENANT,
        "--source", "directory", "--option", f"path={library}",
    ]  # fmt: skip
    left: list[int] = []
    killer = threading.Thread(target=lambda: left.append(kill_midway(command)))
    killer.start()
    account = asyncio.run(ask_many(running.url, 10, 4, "reader"))
    killer.join()

    assert account.unheard == []
    assert account.answers == 40
    assert left, "nothing was written before the driver was killed"
    # A write that was on its way may still have come in.
    assert 0 < left[0] < FILES
    source = DirectorySource(str(library), ("*.txt",))
    progress = ingest_source(source, Layer.CONTEXTUAL, TENANT)
    assert progress.documents == FILES
    assert progress.skipped >= left[0]
    documents = [document for shard in source.shards() for document in source.read(shard)]
    owed = [
        record.id
        for document in documents
        for record in prepare(document, TENANT, Layer.CONTEXTUAL, embedder).records  # type: ignore[arg-type]
    ]
    assert written() == len(owed) == FILES
    found = ray.get(find_memory().get.remote(Scope(TENANT), owed))
    assert sorted(record.id for record in found) == sorted(owed)
    again = ingest_source(source, Layer.CONTEXTUAL, TENANT)
    assert (again.written, again.skipped) == (0, FILES)
