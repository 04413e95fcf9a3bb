"""An endpoint that speaks OpenAI's chat protocol on this machine, and answers as it is told."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One reply of the stub.

    Attributes:
        text: of the assistant; wrapped as the protocol has it.
        status: of HTTP.
        body: sent instead of the wrapped text.
        headers: besides the usual.
        pause_s: before it answers.
        hang_up: close the connection without an answer.
    """

    text: str = ""
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    hang_up: bool = False


@dataclass
class Stub:
    """A running endpoint.

    Attributes:
        url: its base URL.
        replies: given one after another; the last one again and again.
        requests: what was asked: path, headers and body.
    """

    url: str
    replies: list[Reply] = field(default_factory=lambda: [Reply("Yes. [1]")])
    requests: list[dict[str, Any]] = field(default_factory=list)

    def next_reply(self) -> Reply:
        """Return the reply to give now."""
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextlib.contextmanager
def chat_endpoint() -> Iterator[Stub]:
    """Run an endpoint on a port of its own for the `with` block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    stub = Stub(f"http://127.0.0.1:{server.server_address[1]}/v1")
    server.stub = stub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        stub: Stub = self.server.stub  # type: ignore[attr-defined]
        length = int(self.headers.get("Content-Length", 0))
        asked = json.loads(self.rfile.read(length))
        stub.requests.append({"path": self.path, "headers": dict(self.headers), "body": asked})
        reply = stub.next_reply()
        time.sleep(reply.pause_s)
        if reply.hang_up:
            self.close_connection = True
            return
        body = reply.body if reply.body is not None else _completion(asked, reply.text)
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _completion(asked: dict[str, Any], text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    told = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return json.dumps(told).encode()
