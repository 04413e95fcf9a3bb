"""HTTP/2 by hand: thousands of gRPC clients in one process, and clients that misbehave on purpose.

gRPC's own client takes 30 kB a call and always follows the protocol. These clients are a socket and
a few numbers each, and a test decides which bytes they send. The server answers what is in a
request's message, so that it has no need to decode compressed headers.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
_INITIAL_WINDOW, _MAX_FRAME_SIZE = 4, 5
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW_BYTES = 65_535
_WRITE_BYTES = 1 << 18
# A client keeps so much of each reply.
_KEPT_BYTES = 1_000


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(headers: list[tuple[str, str]]) -> bytes:
    """Return headers in HPACK's plainest form: literal, not indexed, not compressed."""
    block = b""
    for name, value in headers:
        block += b"\x00"
        for text in (name.encode(), value.encode()):
            assert len(text) < 127, "a longer text needs an integer of several bytes"
            block += bytes([len(text)]) + text
    return block


def message(content: bytes) -> bytes:
    """Return a gRPC message as it goes into DATA frames."""
    return b"\x00" + struct.pack(">I", len(content)) + content


def opening(window_bytes: int = _LARGEST_WINDOW) -> bytes:
    """Return what a client sends first: it takes so many bytes of each stream at a time."""
    settings = struct.pack(">HIHI", _INITIAL_WINDOW, window_bytes, _MAX_FRAME_SIZE, 2**24 - 1)
    more = struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW_BYTES)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, more)


def request(
    stream: int,
    method: str,
    content: bytes,
    *,
    ends: bool = True,
    metadata: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Return a call of one message."""
    headers = header_block(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "relay"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *metadata,
        ]
    )
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(
        DATA, END_STREAM if ends else 0, stream, message(content)
    )


REPLY_HEADERS = header_block([(":status", "200"), ("content-type", "application/grpc")])
_TRAILERS = header_block([("grpc-status", "0")])


class Frames:
    """Cuts what arrives on a connection into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Take bytes; yield kind, flags, stream and payload of each frame that is whole."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= 9:
            length = int.from_bytes(self._buffer[at : at + 3], "big")
            if len(self._buffer) - at < 9 + length:
                break
            kind, flags, stream = struct.unpack_from(">BBI", self._buffer, at + 3)
            yield (
                kind,
                flags,
                stream & _LARGEST_WINDOW,
                bytes(self._buffer[at + 9 : at + 9 + length]),
            )
            at += 9 + length
        del self._buffer[:at]


class Client:
    """One connection of a client.

    Args:
        port: of the relay, on 127.0.0.1.
        window_bytes: how many bytes of each stream it takes; it never takes more.
    """

    def __init__(self, port: int, window_bytes: int = _LARGEST_WINDOW) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(opening(window_bytes))
        self.received_bytes = 0
        self.received: dict[int, bytes] = {}  # the beginning of what each stream brought
        self.ended: set[int] = set()  # streams
        self.closed = False
        self.gone_away = False
        self._frames = Frames()
        self._window_bytes = self._initial_bytes = _DEFAULT_WINDOW_BYTES
        self._windows: dict[int, int] = {}
        self._uploads: dict[int, memoryview] = {}  # what is left of each

    def upload(self, stream: int, method: str, content: bytes) -> None:
        """Begin a call with a large message; `take` sends as much of it as the relay has room for."""
        head = request(stream, method, b"")
        self.send(head[: -len(frame(DATA, 0, 0, message(b"")))])
        self._windows.setdefault(stream, self._initial_bytes)
        self._uploads[stream] = memoryview(message(content))
        self._push()

    def send(self, data: bytes) -> None:
        """Send bytes as they are. A connection that was closed meanwhile takes them, too."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def take(self) -> None:
        """Read what there is, and answer what the protocol wants answered."""
        try:
            data = self.socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        answers = b""
        for kind, flags, stream, payload in self._frames.feed(data):
            if kind == DATA:
                self.received_bytes += len(payload)
                begun = self.received.get(stream, b"")
                self.received[stream] = begun + payload[: _KEPT_BYTES - len(begun)]
            elif kind == SETTINGS and not flags & ACK:
                self._settings(payload)
                answers += frame(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                answers += frame(PING, ACK, 0, payload)
            elif kind == WINDOW_UPDATE and stream == 0:
                self._window_bytes += int.from_bytes(payload, "big")
            elif kind == WINDOW_UPDATE:
                self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(
                    payload, "big"
                )
            elif kind == GOAWAY:
                self.gone_away = True
            if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
                self.ended.add(stream)
                self._uploads.pop(stream, None)
        if answers:
            self.send(answers)
        self._push()

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW:
                for stream in self._windows:
                    self._windows[stream] += value - self._initial_bytes
                self._initial_bytes = value

    def _push(self) -> None:
        for stream, left in list(self._uploads.items()):
            while left:
                room = min(self._window_bytes, self._windows[stream], 16_384, len(left))
                if room <= 0:
                    break
                last = END_STREAM if room == len(left) else 0
                self.send(frame(DATA, last, stream, bytes(left[:room])))
                self._window_bytes -= room
                self._windows[stream] -= room
                left = left[room:]
            self._uploads[stream] = left
            if not left:
                del self._uploads[stream]

    def close(self, *, reset: bool = False) -> None:
        """Close the connection, with a reset if asked."""
        if reset:
            _reset(self.socket)
        self.socket.close()
        self.closed = True


def _reset(connection: socket.socket) -> None:
    """Close a connection with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Clients:
    """Many clients that are read by the thread that waits for something.

    Args:
        port: of the relay.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self.all: list[Client] = []

    def connect(self, window_bytes: int = _LARGEST_WINDOW) -> Client:
        """Add a client."""
        client = Client(self._port, window_bytes)
        self.all.append(client)
        self._selector.register(client.socket, selectors.EVENT_READ, client)
        return client

    def run(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Read until the condition holds; return whether it did in time."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                return False
            for key, _ in self._selector.select(0.1):
                client: Client = key.data
                client.take()
                if client.closed:
                    self._selector.unregister(client.socket)
                    client.socket.close()
        return True

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for client in self.all:
            client.socket.close()


class _Connection:
    """A connection of the server's."""

    def __init__(self, near: socket.socket) -> None:
        near.setblocking(False)
        self.socket = near
        self.frames = Frames()
        self.preface = len(PREFACE)
        self.out: deque[memoryview | bytes] = deque([frame(SETTINGS, 0, 0)])
        self.window = _DEFAULT_WINDOW_BYTES
        self.initial_window = _DEFAULT_WINDOW_BYTES
        self.windows: dict[int, int] = {}
        self.replies: dict[int, tuple[memoryview, int]] = {}  # what is left of each
        self.requests: dict[int, bytes] = {}
        self.closes = False


@dataclass(frozen=True)
class Raw:
    """A reply that breaks the protocol or the connection.

    Attributes:
        frames: what to send, given the stream.
        closes: whether the connection is reset after that.
    """

    frames: Callable[[int], bytes]
    closes: bool = False


def _more(stream: int) -> bytes:
    more = struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW_BYTES)
    return frame(WINDOW_UPDATE, 0, stream, more)


class Server:
    """An upstream for simulations, on a thread of its own; use it in a `with` block.

    Of each call it takes 64 kB, and of a connection as much as it is sent.

    Args:
        reply: what to answer to a request's message; None: the call waits for ever.
        host: the address at which it listens.
    """

    def __init__(
        self,
        reply: Callable[[bytes], bytes | Raw | None],
        *,
        host: str = "127.0.0.1",
    ) -> None:
        self._reply = reply
        self._listener = socket.create_server((host, 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.opened = 0  # calls
        self.waiting = 0  # calls that will get no answer
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            for key, events in self._selector.select(0.1):
                if key.data is None:
                    near, _ = self._listener.accept()
                    connection = _Connection(near)
                    connection.out.append(_more(0))
                    self._selector.register(near, selectors.EVENT_READ, connection)
                else:
                    self._serve(key.data, events)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _serve(self, connection: _Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._read(connection, connection.socket.recv(1 << 20))
            self._write(connection)
        except OSError:
            self._selector.unregister(connection.socket)
            _reset(connection.socket)

    def _read(self, connection: _Connection, data: bytes) -> None:
        if not data:
            raise ConnectionError
        skipped = min(len(data), connection.preface)
        connection.preface -= skipped
        for kind, flags, stream, payload in connection.frames.feed(data[skipped:]):
            if kind == SETTINGS and not flags & ACK:
                self._settings(connection, payload)
            elif kind == PING and not flags & ACK:
                connection.out.append(frame(PING, ACK, 0, payload))
            elif kind == WINDOW_UPDATE:
                self._widen(connection, stream, int.from_bytes(payload, "big"))
            elif kind == RST_STREAM:
                connection.replies.pop(stream, None)
            elif kind == HEADERS:
                self.opened += 1
            elif kind == DATA:
                self._data(connection, flags, stream, payload)

    def _settings(self, connection: _Connection, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW:
                for stream in connection.windows:
                    connection.windows[stream] += value - connection.initial_window
                connection.initial_window = value
        connection.out.append(frame(SETTINGS, ACK, 0))

    def _widen(self, connection: _Connection, stream: int, more: int) -> None:
        if stream == 0:
            connection.window += more
        elif stream in connection.windows:
            connection.windows[stream] += more

    def _data(self, connection: _Connection, flags: int, stream: int, payload: bytes) -> None:
        whole = connection.requests.pop(stream, b"") + payload
        connection.windows.setdefault(stream, connection.initial_window)
        if not flags & END_STREAM:
            connection.requests[stream] = whole
            return
        reply = self._reply(whole[5:])
        if reply is None:
            self.waiting += 1
            return
        if isinstance(reply, Raw):
            connection.out.append(reply.frames(stream))
            connection.closes |= reply.closes
            return
        connection.out.append(frame(HEADERS, END_HEADERS, stream, REPLY_HEADERS))
        connection.replies[stream] = (memoryview(message(reply)), 0)

    def _write(self, connection: _Connection) -> None:
        self._fill(connection)
        while connection.out:
            try:
                sent = connection.socket.send(connection.out[0])
            except BlockingIOError:
                break
            if sent < len(connection.out[0]):
                connection.out[0] = memoryview(connection.out[0])[sent:]
            else:
                connection.out.popleft()
                self._fill(connection)
        if connection.closes and not connection.out:
            raise ConnectionError
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.out else 0)
        self._selector.modify(connection.socket, events, connection)

    def _fill(self, connection: _Connection) -> None:
        """Put as much of the replies into frames as the windows allow, a little at a time."""
        filled = sum(len(part) for part in connection.out)
        for stream in list(connection.replies):
            reply, at = connection.replies[stream]
            while filled < _WRITE_BYTES:
                room = min(connection.window, connection.windows[stream], 16_384, len(reply) - at)
                if room <= 0:
                    break
                connection.out.append(frame(DATA, 0, stream, bytes(reply[at : at + room])))
                at += room
                filled += room
                connection.window -= room
                connection.windows[stream] -= room
            connection.replies[stream] = (reply, at)
            if at == len(reply):
                end = frame(HEADERS, END_HEADERS | END_STREAM, stream, _TRAILERS)
                connection.out.append(end)
                del connection.replies[stream], connection.windows[stream]
