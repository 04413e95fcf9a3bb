"""A relay between grpcio clients and a grpcio server: what passes through it, and what it costs.

Arguments: the relay's program, and free ports. Prints what was seen, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

BIG = 40_000_000
LONG_POLLS = 2_000
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# By what the call said: whether the server has it, and whether it is over for the server.
begun: defaultdict[bytes, threading.Event] = defaultdict(threading.Event)
over: defaultdict[bytes, threading.Event] = defaultdict(threading.Event)
order: list[int] = []
ports = [int(port) for port in sys.argv[2:]]


class Backend(grpc.GenericRpcHandler):
    """Answers whatever is asked, by the last word of the method."""

    def service(self, details: Any) -> Any:
        name = details.method.rsplit("/", 1)[1]
        if name in ("Echo", "Fail", "Slow", "Metadata", "Order", "Nap"):
            return grpc.unary_unary_rpc_method_handler(getattr(self, name.lower()))
        if name == "Talk":
            return grpc.stream_stream_rpc_method_handler(self.talk)
        if name == "GreetFirst":
            return grpc.stream_stream_rpc_method_handler(self.greet_first)
        if name == "Sum":
            return grpc.stream_unary_rpc_method_handler(self.sum)
        if name == "Count":
            return grpc.unary_stream_rpc_method_handler(self.count)
        return None

    def echo(self, request: bytes, context: Any) -> bytes:
        return request

    def order(self, request: bytes, context: Any) -> bytes:
        order.append(int(request))
        return b""

    def fail(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(
            (("why", "because"), ("why", "twice"), ("raw-bin", b"\0\xff"))
        )
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details("lost: \u00e4 %\n")
        return b""

    def slow(self, request: bytes, context: Any) -> bytes:
        if request == b"left":
            return str(context.time_remaining()).encode()
        if not context.add_callback(over[request].set):
            over[request].set()
        begun[request].set()
        over[request].wait(60)
        return b"late"

    def nap(self, request: bytes, context: Any) -> bytes:
        begun[request].set()
        time.sleep(float(request))
        return b"rested"

    def metadata(self, request: bytes, context: Any) -> bytes:
        context.send_initial_metadata((("first", "yes"), ("bytes-bin", b"\1\2")))
        seen = [
            [m.key, m.value if isinstance(m.value, str) else m.value.hex()]
            for m in context.invocation_metadata()
        ]
        return json.dumps(seen).encode()

    def talk(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield request + b"!"
        yield b"end"

    def greet_first(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.send_initial_metadata((("node_id", "00"),))
        yield from requests

    def sum(self, requests: Iterator[bytes], context: Any) -> bytes:
        return str(sum(map(int, requests))).encode()

    def count(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()


def start_relay(
    program: str, upstream: int, port: int | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a relay that ends with this program; return it and its port once it listens."""
    port = port or ports.pop()
    options = [f"--upstream=127.0.0.1:{upstream}", f"--listen=127.0.0.1:{port}", "--admin-listen="]
    options.append("--drain-ms=8000")
    process = subprocess.Popen(
        [program, *options, f"--parent-pid={os.getpid()}"], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    return process, port


def raises(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        call()
    except grpc.RpcError as error:
        trailing = [
            [k, v if isinstance(v, str) else v.hex()] for k, v in error.trailing_metadata() or ()
        ]
        return {"code": error.code().name, "details": error.details(), "trailing": sorted(trailing)}
    return {"code": "OK"}


def semantics(channel: grpc.Channel) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    echo = channel.unary_unary("/any.Service/Echo")
    seen["echo"] = echo(b"x") == b"x"
    seen["empty"] = echo(b"") == b""
    big = bytes(range(256)) * (BIG // 256)
    seen["big"] = echo(big) == big
    seen["failure"] = raises(lambda: channel.unary_unary("/any.Service/Fail")(b""))
    seen["unknown"] = raises(lambda: channel.unary_unary("/any.Service/NoSuchThing")(b""))["code"]
    slow = channel.unary_unary("/any.Service/Slow")
    seen["deadline_left"] = float(slow(b"left", timeout=100))
    for timeout_s in (1, 5, 30):
        late = os.urandom(8)
        seen["deadline"] = raises(lambda late=late, s=timeout_s: slow(late, timeout=s))["code"]
        # One that passed before the server had the call shows nothing there.
        if begun[late].is_set():
            break
    seen["deadline_cancels"] = over[late].wait(30)
    left = os.urandom(8)
    call = slow.future(left)
    begun[left].wait(60)
    call.cancel()
    seen["cancels"] = over[left].wait(30)
    answer, call = channel.unary_unary("/any.Service/Metadata").with_call(
        b"",
        metadata=(
            ("authorization", "Bearer x"),
            ("node_id", "ab"),
            ("twice", "1"),
            ("twice", "2"),
            ("raw-bin", b"\0\1"),
        ),
    )
    seen["metadata"] = json.loads(answer)
    seen["initial"] = sorted(
        [k, v if isinstance(v, str) else v.hex()] for k, v in call.initial_metadata()
    )
    talk = channel.stream_stream("/any.Service/Talk")
    words = [b"%d" % number for number in range(500)]
    seen["talk"] = list(talk(iter(words))) == [word + b"!" for word in words] + [b"end"]
    seen["silent_talk"] = list(talk(iter(()))) == [b"end"]
    seen["greeted"] = greeting(channel)
    seen["sum"] = int(channel.stream_unary("/any.Service/Sum")(b"%d" % n for n in range(1000)))
    seen["count"] = len(list(channel.unary_stream("/any.Service/Count")(b"3000")))
    seen["ping_pong"] = ping_pong(talk)
    ordered = channel.unary_unary("/any.Service/Order")
    for pending in [ordered.future(b"%d" % number) for number in range(300)]:
        pending.result()
    seen["in_order"] = order == sorted(order)
    return seen


class Waiting(grpc.GenericRpcHandler):
    """Keeps every call waiting until as many wait as are wanted; then answers each with its own words."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.waiting = self.most = 0
        self.enough = asyncio.Event()

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self.poll)

    async def poll(self, request: bytes, context: Any) -> bytes:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        if self.waiting == self.wanted:
            self.enough.set()
        await asyncio.wait_for(self.enough.wait(), 60)
        self.waiting -= 1
        return request


async def long_polls(program: str) -> dict[str, int]:
    """Have many calls wait at once; return how many did at the upstream, and how many were answered."""
    waiting = Waiting(LONG_POLLS)
    # Else gRPC's server would turn away some of a burst that it has not looked at yet.
    names = ("max_pending_requests", "max_pending_requests_hard_limit")
    server = grpc.aio.server(options=[(f"grpc.server.{name}", LONG_POLLS) for name in names])
    server.add_generic_rpc_handlers((waiting,))
    upstream = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    relay, port = start_relay(program, upstream)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        poll = channel.unary_unary("/any.Service/Poll")
        words = [b"%d" % number for number in range(LONG_POLLS)]
        answers = await asyncio.gather(
            *(poll(word, timeout=60) for word in words), return_exceptions=True
        )
    answered = sum(word == answer for word, answer in zip(words, answers, strict=True))
    relay.terminate()
    relay.wait(timeout=60)
    await server.stop(None)
    return {"most": waiting.most, "answered": answered}


def greeting(channel: grpc.Channel) -> bool:
    """Whether the server's metadata arrives before anybody has said a word."""
    done = threading.Event()

    def nothing() -> Iterator[bytes]:
        done.wait(60)
        yield b"bye"

    call = channel.stream_stream("/any.Service/GreetFirst")(nothing())
    met = dict(call.initial_metadata()).get("node_id") == "00"
    done.set()
    return met and list(call) == [b"bye"]


def ping_pong(talk: Any) -> int:
    """Return how many answers came, each asked for after the one before."""
    turn = threading.Semaphore(1)

    def words() -> Iterator[bytes]:
        for number in range(200):
            turn.acquire()
            yield b"%d" % number

    count = 0
    for answer in talk(words()):
        count += answer.endswith(b"!")
        turn.release()
    return count


def main() -> None:
    """Run everything and print what was seen."""
    program = sys.argv[1]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    server.add_generic_rpc_handlers((Backend(),))
    upstream = server.add_insecure_port("127.0.0.1:0")
    server.start()
    relay, port = start_relay(program, upstream)
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
    grpc.channel_ready_future(channel).result(timeout=60)
    seen = {"through": semantics(channel)}

    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    seen["health"] = health(b"\x0a\x08mantaray").hex()
    seen["health_of_others"] = raises(lambda: health(b""))["code"]
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\x08mantaray")
    states = [next(watch).hex()]

    outer, outer_port = start_relay(program, port)
    outer_channel = grpc.insecure_channel(f"127.0.0.1:{outer_port}", options=OPTIONS)
    grpc.channel_ready_future(outer_channel).result(timeout=60)
    order.clear()
    seen["through_two"] = semantics(outer_channel)

    one, two = ports.pop(), ports.pop()
    ring = [start_relay(program, up, down)[0] for up, down in ((one, two), (two, one))]
    ring_channel = grpc.insecure_channel(f"127.0.0.1:{one}")
    grpc.channel_ready_future(ring_channel).result(timeout=60)
    ring_echo = ring_channel.unary_unary("/any.Service/Echo")
    deadline = time.monotonic() + 60
    # Until each of them has found the other one.
    while (code := raises(lambda: ring_echo(b"", timeout=60))["code"]) == "UNAVAILABLE":
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    seen["ring"] = code

    # What is under way when the inner relay is told to end has its time, and no more.
    nap = channel.unary_unary("/any.Service/Nap")
    short, long = nap.future(b"1"), nap.future(b"40")
    for request in (b"1", b"40"):
        begun[request].wait(60)
    relay.terminate()
    seen["drained"] = short.result() == b"rested"
    seen["not_drained"] = raises(long.result)["code"]
    states += [message.hex() for message in _until_error(watch)]
    seen["watched"] = states
    seen["status"] = relay.wait(timeout=60)

    seen["long_polls"] = asyncio.run(long_polls(program))
    server.stop(None)
    lonely, lonely_port = start_relay(program, upstream)
    lonely_channel = grpc.insecure_channel(f"127.0.0.1:{lonely_port}")
    seen["no_upstream"] = raises(
        lambda: lonely_channel.unary_unary("/any.Service/Echo")(b"x", timeout=60)
    )["code"]
    for process in (outer, lonely, *ring):
        process.terminate()
        process.wait(timeout=60)
    print(json.dumps(seen), flush=True)
    os._exit(0)


def _until_error(watch: Any) -> Iterator[bytes]:
    try:
        yield from watch
    except grpc.RpcError:
        return


if __name__ == "__main__":
    main()
