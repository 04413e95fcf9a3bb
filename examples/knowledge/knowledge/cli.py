"""The `knowledge` command."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from knowledge.types import KnowledgeError

DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT_S = 630.0


class ServiceError(KnowledgeError):
    """The service refused, or nobody answers at its address."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, or 1 when it did not work, with a line on standard error that says why.
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except KnowledgeError as error:
        print(f"knowledge: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class Client:
    """The service's HTTP interface.

    Args:
        url: of the service.
        tenant: in whose name.
    """

    def __init__(self, url: str, tenant: str = "default") -> None:
        self._url = url.rstrip("/")
        # The service is near; a proxy for the world outside is not for it.
        self._client = httpx.Client(
            timeout=_TIMEOUT_S, headers={"X-Tenant": tenant}, trust_env=False
        )

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the reply's JSON.

        Raises:
            ServiceError: there is none, or it is an error.
        """
        try:
            reply = self._client.request(method, self._url + path, json=body)
        except httpx.TransportError as error:
            raise ServiceError(f"no service at {self._url}: {error}") from None
        if reply.is_success:
            return reply.json()
        raise ServiceError(_problem(reply))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _problem(reply: httpx.Response) -> str:
    try:
        told = reply.json()
        message = told.get("message") or json.dumps(told.get("detail"))
    except (ValueError, AttributeError):
        message = reply.text[:200]
    later = reply.headers.get("Retry-After")
    wait = f"; try again in {later} s" if later else ""
    return f"status {reply.status_code}: {message}{wait}"


# --- Commands that ask a running service


def _ask(arguments: argparse.Namespace) -> int:
    from knowledge.wire import as_text

    body = {
        "question": arguments.question,
        "session_id": arguments.session,
        "priority": arguments.priority,
        "deadline_ms": arguments.deadline_ms,
        "explain": arguments.explain,
    }
    told = _call(arguments, "POST", "/ask", body)
    print(json.dumps(told, indent=2) if arguments.json else as_text(told))
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.local:
        from knowledge.planner import RulePlanner
        from knowledge.wire import plan_reply

        plan = asyncio.run(RulePlanner().plan(arguments.question, []))
        told = plan_reply(plan).model_dump()
    else:
        body = {"question": arguments.question, "session_id": arguments.session}
        told = _call(arguments, "POST", "/plan", body)
    print(json.dumps(told, indent=2))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    print(json.dumps(_call(arguments, "GET", "/stats"), indent=2))
    return 0


def _flush(arguments: argparse.Namespace) -> int:
    told = _call(arguments, "POST", f"/sessions/{arguments.session}/flush")
    print(f"{told['count']} exchanges of session {arguments.session} are long-term memory now")
    return 0


def _forget(arguments: argparse.Namespace) -> int:
    told = _call(arguments, "DELETE", f"/sessions/{arguments.session}")
    print(f"{told['count']} exchanges of session {arguments.session} are forgotten")
    return 0


def _call(
    arguments: argparse.Namespace, method: str, path: str, body: dict[str, Any] | None = None
) -> Any:
    client = Client(arguments.url, arguments.tenant)
    try:
        return client.call(method, path, body)
    finally:
        client.close()


# --- Commands that run something


def _serve(arguments: argparse.Namespace) -> int:
    from knowledge import local, service

    settings = local.settings_of(arguments)
    stopped = threading.Event()
    with local.cluster(arguments.address, settings.directory):
        service.start(settings)
        # Now, because Ray has put handlers of its own in place of earlier ones.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        print(
            f"the knowledge service answers at http://{settings.host}:{settings.port}/", flush=True
        )
        stopped.wait()
        print("shutting down: what was asked is answered first", flush=True)
        service.stop()
    return 0


def _ingest(arguments: argparse.Namespace) -> int:
    import ray

    from knowledge import local
    from knowledge.ingest.pipeline import IngestOptions, Progress, ingest
    from knowledge.ingest.routes import IngestRequest
    from knowledge.memory.actor import start_memory

    settings = local.settings_of(arguments)
    request = IngestRequest(
        arguments.trigger, arguments.source, arguments.tenant, dict(arguments.option)
    )

    def show(progress: Progress) -> None:
        print(f"\r{_progress(progress)}", end="", file=sys.stderr, flush=True)

    with local.cluster(arguments.address, settings.directory):
        actor = start_memory(settings.directory, settings.embedder, settings.short_term_limit)
        # One embedder for each two processors: they share the machine with everything else.
        embedders = max(1, int(ray.cluster_resources().get("CPU", 1)) // 2)
        done = ingest(request, actor, options=IngestOptions(embedders=embedders), on_progress=show)
    print(f"\r{_progress(done)}", file=sys.stderr)
    return 0


def _progress(progress: Any) -> str:
    return (
        f"{progress.documents} documents: {progress.written} written in {progress.pieces} pieces,"
        f" {progress.skipped} in already, {progress.elapsed_s:.0f} s"
    )


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, int(value) if value.lstrip("-").isdigit() else value


def _run(arguments: argparse.Namespace) -> int:
    from knowledge import local
    from knowledge.config import load_pipeline
    from knowledge.session import Session

    pipeline = load_pipeline(Path(arguments.file))
    settings = local.settings_of(arguments)
    with local.cluster(arguments.address, settings.directory), Session(settings) as session:
        status = session.submit(pipeline).wait()
    print(json.dumps(vars(status), indent=2))
    return 0 if status.state == "done" and not status.failed else 1


def _demo(arguments: argparse.Namespace) -> int:
    from knowledge import demo

    return demo.run(documents=arguments.documents)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="knowledge", description="A knowledge service on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], what: str) -> Any:
        made = commands.add_parser(name, help=what, description=what)
        made.set_defaults(run=run)
        return made

    ask = _asking(command("ask", _ask, "ask the running service a question"))
    ask.add_argument("question")
    ask.add_argument("--session", help="the conversation that it belongs to")
    ask.add_argument("--priority", choices=("high", "normal", "low"), default="normal")
    ask.add_argument("--deadline-ms", type=float, help="give up after this many milliseconds")
    ask.add_argument("--explain", action="store_true", help="show the plan and the passages")
    ask.add_argument("--json", action="store_true", help="print the reply as it comes")
    plan = _asking(command("plan", _plan, "show how a question would be answered"))
    plan.add_argument("question")
    plan.add_argument("--session", help="the conversation that it belongs to")
    plan.add_argument("--local", action="store_true", help="by the rules, without a service")
    _asking(command("status", _status, "show the service's queue and memory"))
    for name, run, what in (
        ("flush", _flush, "move a session's short-term memory to long-term memory"),
        ("forget", _forget, "remove a session's short-term memory for good"),
    ):
        _asking(command(name, run, what)).add_argument("session")
    serve = _running(command("serve", _serve, "run the service until it is told to end"))
    serve.add_argument("--host", help="that HTTP listens on")
    serve.add_argument("--port", type=int, help="and its port")
    ingest = _running(command("ingest", _ingest, "take in documents; again, only what changed"))
    ingest.add_argument("--trigger", default="manual", help="why (manual)")
    ingest.add_argument("--source", default="python-docs", help="what (python-docs)")
    ingest.add_argument("--tenant", default="default", help="whose memory they become part of")
    ingest.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the source, as path=notes; may be given several times",
    )
    pipeline = _running(command("run", _run, "run a pipeline that a YAML file describes"))
    pipeline.add_argument("file")
    demo = command("demo", _demo, "ingest a corpus, serve, ask six questions, shut down")
    demo.add_argument("--documents", type=int, default=0, help="how many to ingest at most (all)")
    return parser


def _asking(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    url = os.environ.get("KNOWLEDGE_URL", DEFAULT_URL)
    parser.add_argument("--url", default=url, help=f"of the service ({url}; KNOWLEDGE_URL)")
    parser.add_argument("--tenant", default="default", help="in whose name")
    return parser


def _running(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--settings", type=Path, help="a YAML file of settings")
    parser.add_argument("--directory", help="of the memory")
    parser.add_argument("--address", help="of a running Ray; else the memory's, or a new one")
    return parser
