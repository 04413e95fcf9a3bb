"""What `make knowledge` shows: a corpus ingested, the service asked, and everything shut down again."""

from __future__ import annotations

import dataclasses
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from knowledge import local, service
from knowledge.cli import Client
from knowledge.config import Settings, load_settings
from knowledge.ingest.pipeline import IngestOptions, Progress, ingest
from knowledge.ingest.routes import IngestRequest
from knowledge.memory.actor import start_memory
from knowledge.types import Value
from knowledge.wire import as_text

_SESSION = "demo"
# A share of it that is embedded in a minute or so on two slow cores; `knowledge ingest` takes all.
_MODULES = (
    "bisect,calendar,collections,contextlib,csv,fnmatch,functools,glob,heapq,itertools,json,random,"
    "secrets,shlex,shutil,statistics,textwrap,numpy.linalg"
)
_STORE_BYTES = 200_000_000


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A question of the demonstration.

    Args:
        why: it is asked.
        source: of a right answer, a part of its URI; None: the corpus has none, and the answer must
            say so.
    """

    question: str
    why: str
    source: str | None


_QUESTIONS = (
    _Asked("What does heapq.merge do?", "names a thing: looked up by its words", "heapq.merge"),
    _Asked(
        "How can I find out how much space is left on a disk?",
        "plain language: looked up by its meaning",
        "disk_usage",
    ),
    _Asked(
        "How does json.dumps treat characters that are not ASCII?",
        "a name and more: words and meaning",
        "json.dumps",
    ),
    _Asked("What does json.dumps do?", "the next one refers to it", "json.dumps"),
    _Asked(
        "And what does it do with a circular reference?",
        "a follow-up: the session's memory says what 'it' is",
        "json.dump",
    ),
    _Asked("What is the capital of Australia?", "nothing in the corpus answers it", None),
)


def run(documents: int) -> int:
    """Run the demonstration in a directory and a Ray of its own, which are gone at its end.

    Args:
        documents: how many to ingest at most; 0 for all.

    Returns:
        0 if every answer was what it must be, else 1.
    """
    began_s = time.monotonic()
    # Short: Ray's sockets lie below it, and their names have a limit.
    with tempfile.TemporaryDirectory(prefix="kn-", dir="/tmp") as directory:
        settings = dataclasses.replace(
            load_settings(directory=str(Path(directory) / "memory")), port=_free_port()
        )
        options = {
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": str(Path(directory) / "ray"),
            # Loopback, so that nothing of it can be reached from elsewhere.
            "_node_ip_address": "127.0.0.2",
        }
        with local.cluster(None, settings.directory, **options):
            _ingest(settings, documents)
            _say("starting the service")
            service.start(settings)
            try:
                wrong = _ask_all(f"http://{settings.host}:{settings.port}")
            finally:
                _say("shutting down")
                service.stop()
    _say(f"done in {time.monotonic() - began_s:.0f} s")
    for problem in wrong:
        print(f"knowledge: {problem}", file=sys.stderr)
    return 1 if wrong else 0


def _ingest(settings: Settings, documents: int) -> None:
    _say("ingesting documentation strings of Python's standard library and of NumPy")
    actor = start_memory(settings.directory, settings.embedder, settings.short_term_limit)
    options: dict[str, Value] = {"limit": documents, "modules": _MODULES}
    request = IngestRequest("manual", "python-docs", options=options)
    last_s = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > 5.0:
            last_s = time.monotonic()
            _say(f"  {progress.documents} documents, {progress.elapsed_s:.0f} s")

    embedders = max(1, int(ray.cluster_resources().get("CPU", 1)) // 2)
    done = ingest(request, actor, options=IngestOptions(embedders=embedders), on_progress=show)
    _say(f"  {done.written} documents in {done.pieces} pieces, {done.elapsed_s:.0f} s")


def _ask_all(url: str) -> list[str]:
    """Ask everything, print what comes, and return what was wrong with it."""
    _say(f"asking {url}")
    wrong: list[str] = []
    client = Client(url)
    try:
        for asked in _QUESTIONS:
            body = {"question": asked.question, "session_id": _SESSION, "explain": True}
            told = client.call("POST", "/ask", body)
            print(f"\nQ: {asked.question}   ({asked.why})\nA: {as_text(_short(told))}", flush=True)
            problem = _wrong(asked, told)
            if problem:
                wrong.append(f"{asked.question!r}: {problem}")
        remembered = len(client.call("GET", f"/sessions/{_SESSION}")["exchanges"])
        if remembered != len(_QUESTIONS):
            wrong.append(f"the session remembers {remembered} of {len(_QUESTIONS)} exchanges")
    finally:
        client.close()
    print(flush=True)
    return wrong


def _short(told: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without its passages; a screen has room for sources, plan and time."""
    return {**told, "hits": None}


def _wrong(asked: _Asked, told: dict[str, Any]) -> str:
    if asked.source is None:
        return "it was answered, though nothing in the corpus answers it" if told["known"] else ""
    if not told["known"]:
        return "it was not answered"
    if not any(asked.source in citation["uri"] for citation in told["citations"]):
        return f"no source of the answer is {asked.source}"
    return ""


def _say(text: str) -> None:
    print(f"knowledge: {text}", flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
