"""One run of load.py, in a process of its own: a Ray, the service, a crawl, its ingestion, the askers.

Progress goes to stderr, one line of JSON with all figures to stdout.

    python benchmarks/load_workload.py DIRECTORY PAGES ASKERS
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import httpx
import ray
from load_crawl import PAGE_BYTES, SET_ASIDE_EVERY

from knowledge import corpus, service
from knowledge.config import Settings
from knowledge.ingest.pipeline import ingest_source
from knowledge.ingest.sources import DocstringSource
from knowledge.memory.actor import start_memory, stop_memory
from knowledge.types import Layer

STORE_BYTES = 100_000_000
# Documents that are there before the crawl, so that there is something to ask about from the start.
KNOWN_DOCUMENTS = 60
ANSWER_TIMEOUT_S = 240.0
SETTLE_S = 8.0
INGEST = Path(__file__).with_name("load_ingest.py")


class DiskWatch:
    """Looks ten times a second at what the files below a directory take on disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[tuple[float, int]] = []

    def __enter__(self) -> DiskWatch:
        """Begin."""
        self._began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.seen.append((round(time.monotonic() - self._began_s, 2), self.now_bytes()))

    def now_bytes(self) -> int:
        """Return the bytes on disk now, each file once whatever the number of its names."""
        seen: dict[int, int] = {}
        for parent, _, names in os.walk(self._directory):
            for name in names:
                try:
                    info = os.lstat(os.path.join(parent, name))
                except FileNotFoundError:
                    continue
                seen[info.st_ino] = info.st_blocks * 512
        return sum(seen.values())


async def ask_all(url: str, askers: int, phase: str) -> dict[str, Any]:
    """Have all askers ask at once, each in a session of its own; return what they saw."""
    questions = [corpus_question(number) for number in range(askers)]
    limits = httpx.Limits(max_connections=askers + 1)
    async with httpx.AsyncClient(
        base_url=url, timeout=ANSWER_TIMEOUT_S, limits=limits, trust_env=False
    ) as client:
        await client.get("/stats")  # The stall so far is nobody's.
        began_s = time.perf_counter()
        asked = (_ask(client, f"{phase}-{n}", text) for n, text in enumerate(questions))
        told = await asyncio.gather(*asked)
        spent_s = time.perf_counter() - began_s
        stall_ms = (await client.get("/stats")).json()["longest_stall_ms"]
    answered = [one for one in told if one is not None]
    if not answered:
        raise SystemExit("nobody got an answer")
    waits_ms = sorted(wait for wait, _ in answered)
    return {
        f"{phase}_p50_ms": statistics.median(waits_ms),
        f"{phase}_p99_ms": waits_ms[int(0.99 * (len(waits_ms) - 1))],
        f"{phase}_rate": len(answered) / spent_s,
        f"{phase}_queue_p50_ms": statistics.median(queued for _, queued in answered),
        f"{phase}_stall_ms": stall_ms,
        f"{phase}_waits_ms": [round(wait, 1) for wait in waits_ms],
        f"{phase}_failed": askers - len(answered),
    }


def corpus_question(number: int) -> str:
    """Return a question about one of the documents that are there from the start."""
    names = _known_names()
    name = names[number % len(names)]
    return (f"What does {name} do?", f"When would somebody use {name}, and what for?")[number % 2]


async def _ask(client: httpx.AsyncClient, session: str, text: str) -> tuple[float, float] | None:
    began_s = time.perf_counter()
    body = {"question": text, "session_id": session, "deadline_ms": ANSWER_TIMEOUT_S * 1000}
    try:
        reply = await client.post("/ask", json=body)
    except httpx.HTTPError as error:
        print(f"an asker was told {error!r}", file=sys.stderr)
        return None
    if reply.status_code != httpx.codes.OK:
        print(f"an asker was told {reply.status_code}: {reply.text[:200]}", file=sys.stderr)
        return None
    return (time.perf_counter() - began_s) * 1000.0, reply.json()["timings_ms"]["queue"]


_NAMES: list[str] = []


def _known_names() -> list[str]:
    if not _NAMES:
        _NAMES.extend(
            document.title for document in corpus.docstrings(modules=_MODULES)[:KNOWN_DOCUMENTS]
        )
    return _NAMES


_MODULES = ("json", "heapq", "bisect", "textwrap", "shutil", "statistics", "shlex", "calendar")


def run(directory: Path, pages: int, askers: int) -> dict[str, Any]:
    """Run it all on a Ray of its own; return the figures."""
    spilled = directory / "spilled"
    spilled.mkdir()
    ray.init(
        address="local",
        namespace="knowledge",
        num_cpus=2,
        object_store_memory=STORE_BYTES,
        object_spilling_directory=str(spilled),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(directory / "t"),
        # Loopback, so that nothing of it can be reached from elsewhere.
        _node_ip_address="127.0.0.2",
    )
    settings = Settings(
        directory=str(directory / "memory"), port=_free_port(), capacity=askers + 50,
        deadline_ms=ANSWER_TIMEOUT_S * 1000,
    )  # fmt: skip
    start_memory(settings.directory, settings.embedder, settings.short_term_limit)
    try:
        service.start(settings)
        ingest_source(DocstringSource(("python",), _MODULES, KNOWN_DOCUMENTS), Layer.CONTEXTUAL)
        return _measure(f"http://{settings.host}:{settings.port}", spilled, pages, askers)
    finally:
        service.stop()
        stop_memory()
        ray.shutdown()


def _measure(url: str, spilled: Path, pages: int, askers: int) -> dict[str, Any]:
    address = ray.get_runtime_context().gcs_address
    with DiskWatch(spilled) as disk:
        driver = subprocess.Popen(
            [sys.executable, str(INGEST), str(pages)],
            env=os.environ | {"RAY_ADDRESS": address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdin is not None and driver.stdout is not None
        try:
            _told(driver.stdout)
            busy = asyncio.run(ask_all(url, askers, "busy"))
            ingested = _told(driver.stdout)
            # Mantaray gives a deleted object's blocks back within 2 s.
            time.sleep(SETTLE_S)
            after_bytes = disk.now_bytes()
            calm = asyncio.run(ask_all(url, askers, "calm"))
            driver.stdin.close()
            if driver.wait(60) != 0:
                raise SystemExit(f"the ingest driver ended with {driver.returncode}")
        finally:
            if driver.poll() is None:
                driver.kill()
                driver.wait()
    return {
        **busy,
        **calm,
        "failed": busy["busy_failed"] + calm["calm_failed"],
        "ingest_s": ingested["seconds"],
        "written": ingested["written"],
        "crawled_bytes": pages * PAGE_BYTES,
        "live_bytes": -(-pages // SET_ASIDE_EVERY) * PAGE_BYTES,
        "disk_peak_bytes": max(used for _, used in disk.seen),
        "disk_after_bytes": after_bytes,
        "disk": disk.seen,
    }


def _told(lines: IO[str]) -> dict[str, Any]:
    """Return the driver's next line of JSON; Ray says things of its own in between."""
    for line in lines:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit("the ingest driver ended before it had ingested everything")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
