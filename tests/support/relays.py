"""Relays in tests: started with `mantaray relay` as an operator would, killed and started again.

And what their tests need besides: nodes that join through them, a GCS that keeps its state and can be
restarted, a wire that can be cut.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pytest
from packaging.version import Version

from . import processes
from .cluster import Cluster, Node, free_ports
from .rays import RayEnv, new_tag

_START_TIMEOUT_S = 60.0
_JOIN_TIMEOUT_S = 180.0
# A generous one: what is waited for comes at once, or, on a machine with much else to do, late.
WAIT_TIMEOUT_S = 120.0
# Ray replaces 127.0.0.1 in `--address`. It leaves another address of the loopback as it is.
_LOOPBACK = "127.0.0.9"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def heads_relay() -> tuple[dict[str, str], RelayAdmin, str]:
    """Choose ports for a relay of the head's own.

    Returns:
        The variables with which the head starts it, its admin port, and the address at which nodes join.
    """
    port, admin_port = free_ports(2)
    variables = {
        "MANTARAY_RELAY_PORT": str(port),
        "MANTARAY_RELAY_ADMIN_PORT": str(admin_port),
        "MANTARAY_RELAY_HOST": _LOOPBACK,
    }
    return variables, RelayAdmin(admin_port), f"{_LOOPBACK}:{port}"


def wait_until(condition: Callable[[], bool], timeout_s: float = WAIT_TIMEOUT_S) -> bool:
    """Wait until the condition holds; return whether it did. A relay that does not answer is no."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def dialect_of(env: RayEnv) -> str:
    """Return in which dialect that Ray speaks of resources."""
    return "bare" if Version(env.version) < Version("2.53") else "batch"


class RelayAdmin:
    """What a relay tells about itself.

    Args:
        port: of its admin address, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.admin = f"127.0.0.1:{port}"

    def status(self) -> dict[str, Any]:
        """Return how it stands."""
        return dict(json.loads(self._get("/status")))

    def streams(self) -> list[dict[str, Any]]:
        """Return its downstream streams."""
        return [stream for stream in self.status()["streams"] if not stream["upstream"]]

    def carried(self) -> int:
        """Return how many nodes stream through it, at whatever depth."""
        return sum(stream["nodes"] for stream in self.streams())

    def metric(self, sample: str) -> float:
        """Return the value of one sample, named with its labels."""
        for line in self._get("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        raise AssertionError(f"no sample {sample}")

    def answer(self, path: str) -> int:
        """Return the HTTP status of a path."""
        try:
            with _OPENER.open(f"http://{self.admin}{path}", timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def _get(self, path: str) -> str:
        with _OPENER.open(f"http://{self.admin}{path}", timeout=30) as response:
            text: bytes = response.read()
        return text.decode()


class RelayProcess(RelayAdmin):
    """A relay on the wildcard address of this machine, gone at the end of the `with` block.

    Args:
        env: the environment whose `mantaray` runs.
        upstream: HOST:PORT; may be changed before it is started again.
        root: a directory for its log.
        options: further options.
        variables: environment on top of the usual.
    """

    def __init__(
        self,
        env: RayEnv,
        upstream: str,
        root: Path,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.port, admin_port = free_ports(2)
        super().__init__(admin_port)
        self.env = env
        self.upstream = upstream
        self.log = root / f"relay-{self.port}.log"
        self._arguments = [
            f"--listen=0.0.0.0:{self.port}",
            f"--admin-listen={self.admin}",
            "--log-format=json",
            *options,
        ]
        self._tag = new_tag()
        self._variables = dict(variables or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where nodes join."""
        return f"{_LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> RelayProcess:
        """Start it, also again, and wait until it serves."""
        variables = {processes.TAG_VARIABLE: self._tag, **self._variables}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self.env.bin("mantaray")), "relay", f"--upstream={self.upstream}"),
                    *self._arguments,
                ],
                env=self.env.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self.status()
                return self
            except OSError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(f"no relay:\n{self.log.read_text()}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(60)

    def terminate(self) -> int:
        """End it in good order; return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def describe(self) -> str:
        """Return how it stands and what it logged."""
        return f"{self.status()}\n{self.log.read_text()}"

    def told(self, event: str) -> int:
        """Return how often its log tells of an event."""
        return self.log.read_text().count(f'"{event}"')

    def __enter__(self) -> RelayProcess:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self.log.exists():
            print(f"--- relay {self.port}\n{self.log.read_text()[-4000:]}")
        left = processes.stop_all(self._tag)
        if self._process is not None:
            self._process.wait(60)
        assert not left, f"relays that do not end:\n{processes.describe(left)}"


class RelayPair:
    """Two relays behind one address, as behind a Service of Kubernetes; both run in the `with` block.

    Args:
        env: the environment whose `mantaray` runs.
        upstream: HOST:PORT of both.
        root: a directory for their logs.
        options: further options of both.
    """

    def __init__(self, env: RayEnv, upstream: str, root: Path, options: Sequence[str] = ()) -> None:
        self.relays = [RelayProcess(env, upstream, root, options) for _ in range(2)]
        self._wire: Wire | None = None
        self._stack = contextlib.ExitStack()

    @property
    def address(self) -> str:
        """Where nodes join."""
        assert self._wire is not None
        return self._wire.address

    def carried(self) -> int:
        """Return how many nodes stream through either."""
        return sum(relay.carried() for relay in self.relays)

    def describe(self) -> str:
        """Return how both stand and what they logged."""
        return "\n".join(relay.describe() for relay in self.relays)

    def __enter__(self) -> RelayPair:
        for relay in self.relays:
            self._stack.enter_context(relay)
        self._wire = Wire(*(relay.address for relay in self.relays), host=_LOOPBACK)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def add_nodes(
    cluster: Cluster,
    relay: RelayProcess | RelayPair,
    names: Sequence[str],
    timeout_s: float = _JOIN_TIMEOUT_S,
    amount: float = 1,
) -> dict[str, Node]:
    """Start nodes that join through a relay; return them by name.

    Each node has so much of a resource of its name.

    Raises:
        AssertionError: they do not all stream through it in time.
    """
    nodes = {}
    for name in names:
        sockets = _sockets(cluster)
        nodes[name] = cluster.add_node(through=relay.address, resources={name: amount}, wait=False)
        # `ray start` looks for names that are free, and the raylet takes them a little later: two
        # that share a session's directory and start at the same moment may find the same ones.
        wait_until(lambda: _sockets(cluster) >= sockets + 2, timeout_s)  # noqa: B023
    joined = wait_until(lambda: relay.carried() == len(names), timeout_s)
    assert joined, f"{relay.describe()}\n{cluster.logs()}"
    return nodes


def _sockets(cluster: Cluster) -> int:
    return len(list((cluster.root / "t/session_latest/sockets").glob("*")))


def has_embedded_store(version: str) -> bool:
    """Return whether the GCS of a release can keep its state in a store of its own."""
    return version == "2.60.0"


@contextlib.contextmanager
def gcs_store(directory: Path, embedded: bool) -> Iterator[dict[str, str]]:
    """Give a GCS something to keep its state in; yield the variables that say so.

    Args:
        directory: for files.
        embedded: whether to take the store that newer Rays have inside; else a Redis is started.
    """
    if embedded:
        yield {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(directory / "store")}
        return
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--dir", str(directory)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield {"RAY_REDIS_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        process.kill()
        process.wait()


def restart_gcs(cluster: Cluster) -> None:
    """Kill the GCS and start it again as it was."""
    # Else `ray start --block` would end the whole head with its GCS.
    cluster.nodes[0].process.send_signal(signal.SIGSTOP)
    (gcs,) = cluster.processes("gcs")
    command, variables, cwd = gcs.cmdline(), gcs.environ(), gcs.cwd()
    gcs.kill()
    # It stays a zombie: its parent is stopped.
    assert wait_until(lambda: gcs.status() == psutil.STATUS_ZOMBIE)
    # Who was connected to it is to see that it is gone.
    time.sleep(1)
    subprocess.Popen(
        command,
        env=variables,
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class Wire:
    """A wire to an address that can be cut: bytes wait, and nobody is told.

    With several targets it balances load as a Service of Kubernetes does: a new connection goes to the
    next target that accepts it.

    Args:
        targets: HOST:PORT where it leads.
        host: the address at which it is reached.
    """

    def __init__(self, *targets: str, host: str = "127.0.0.1") -> None:
        self._targets = [(at, int(port)) for at, _, port in (t.rpartition(":") for t in targets)]
        self._listener = socket.create_server((host, 0))
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Carry nothing from now on."""
        self._open.clear()

    def heal(self) -> None:
        """Carry again. Connections from before are reset, as a firewall that forgot them does."""
        before, self._sockets = self._sockets, []
        for one in before:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.set()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            self._open.wait()
            far = self._connect()
            if far is None:
                near.close()
                continue
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        for _ in self._targets:
            self._targets.append(self._targets.pop(0))
            with contextlib.suppress(OSError):
                return socket.create_connection(self._targets[-1])
        return None

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
