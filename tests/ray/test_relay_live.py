"""Relays between the raylets and the GCS of live clusters of both Rays."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.cluster import Cluster, Node, free_ports
from tests.support.rays import RayEnv, assert_start_refused, short_directory
from tests.support.relays import RelayProcess, stopped

PROGRAMS = Path(__file__).with_name("programs")
WINDOW_MS = 25
# So that a test need not wait for long.
OPTIONS = ("--grace-ms=4000", f"--window-ms={WINDOW_MS}")
JOIN_TIMEOUT_S = 90.0


def wait_until(condition: Callable[[], bool], timeout_s: float = 40.0) -> bool:
    """Wait until the condition holds; return whether it did."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def dialect(env: RayEnv) -> str:
    """Return what that Ray speaks."""
    return "bare" if env.version == "2.48.0" else "batch"


def carried(relay: RelayProcess) -> int:
    """Return how many nodes stream through a relay, at whatever depth."""
    return sum(stream["nodes"] for stream in relay.streams())


@dataclass
class Tree:
    """A head, two nodes behind one relay, and two behind another that hangs below the first.

    Attributes:
        cluster: the head and its nodes.
        upper: the relay at the GCS.
        lower: the relay below.
        nodes: n0 and n1 behind upper, n2 and n3 behind lower.
    """

    cluster: Cluster
    upper: RelayProcess
    lower: RelayProcess
    nodes: dict[str, Node]

    def raylet(self, node: Node) -> psutil.Process:
        """Return a node's raylet."""
        return next(
            process
            for process in self.cluster.processes("raylet")
            if f"--node_ip_address={node.address}" in process.cmdline()
        )

    def work(self, count: int, mode: str) -> dict[str, Any]:
        """Run ordinary work; see programs/relay_work.py."""
        told = self.cluster.run_program(PROGRAMS / "relay_work.py", [str(count), mode])
        return dict(told)


@contextlib.contextmanager
def make_tree(env: RayEnv, dashboard: bool = False) -> Iterator[Tree]:
    """Start a tree and wait until all its nodes are streaming."""
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(short_directory())
        cluster = stack.enter_context(Cluster(env, num_cpus=1, dashboard=dashboard))
        upper = stack.enter_context(RelayProcess(env, cluster.address, root, OPTIONS))
        lower = stack.enter_context(RelayProcess(env, upper.address, root, OPTIONS))
        nodes: dict[str, Node] = {}
        # One after the other: raylets of one machine that start at the same moment take the same
        # names for their sockets.
        for count, (name, relay) in enumerate(
            (("n0", upper), ("n1", upper), ("n2", lower), ("n3", lower)), start=1
        ):
            nodes[name] = cluster.add_node(through=relay.address, resources={name: 1}, wait=False)
            settled = wait_until(lambda: carried(upper) == count, JOIN_TIMEOUT_S)  # noqa: B023
            assert settled, f"{upper.status()}\n{lower.status()}\n{cluster.logs()}"
        yield Tree(cluster, upper, lower, nodes)


@pytest.fixture(scope="module")
def tree(ray_env: RayEnv) -> Iterator[Tree]:
    """One tree for the tests that leave it whole, or take from it what later ones do not need."""
    with make_tree(ray_env, dashboard=True) as tree:
        yield tree


def test_work_is_not_lost_behind_two_levels_of_relays(tree: Tree) -> None:
    seen = tree.work(5, "start")
    assert seen["nodes"] == 5
    assert seen["ran_on"] == 5
    assert seen["in_status"] == 5
    for relay in (tree.upper, tree.lower):
        assert relay.status()["upstream_connected"]
        assert relay.metric('mantaray_relay_proxy_calls_total{code="OK"}') > 10
        assert relay.answer("/healthz") == relay.answer("/readyz") == 200
    # One stream carries them all.
    assert [stream["nodes"] for stream in tree.upper.streams() if stream["relay_id"]] == [2]
    told = subprocess.run(
        [str(tree.cluster.env.bin("mantaray")), "relay", "status", tree.upper.admin],
        env=tree.cluster.env.environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.count("node ") >= 4
    assert told.index(f"relay {tree.upper.status()['relay_id']}") < told.index(
        f"relay {tree.lower.status()['relay_id']}"
    )


def test_serve_and_jobs_are_not_broken_behind_relays(tree: Tree) -> None:
    seen = tree.cluster.run_program(PROGRAMS / "relay_serve.py", [tree.cluster.dashboard_url])
    assert seen == {"right": True, "job": "SUCCEEDED", "said": True}


def test_resources_taken_on_one_node_are_not_hidden_from_others(tree: Tree) -> None:
    relays = (tree.upper.address, tree.lower.address)
    seen = tree.cluster.run_program(
        PROGRAMS / "relay_views.py", [dialect(tree.cluster.env), "n3", *relays]
    )
    assert seen["known"] == seen["taken"] == seen["given_back"] == [True, True]
    # From when the actor answered. Raylets tell at most every 100 ms, three windows lie between, and
    # the rest is slack.
    assert max(seen["taken_ms"]) < 1_500
    assert seen["rising"]
    assert seen["heard"]
    assert not seen["echo"]


def test_hostile_streams_do_not_reach_the_gcs(tree: Tree) -> None:
    env = tree.cluster.env
    gcs = tree.cluster.pids("gcs")
    victim = next(s["node_id"] for s in tree.lower.streams() if not s["relay_id"])
    seen = tree.cluster.run_program(
        PROGRAMS / "relay_hostile.py", [tree.lower.address, dialect(env), victim]
    )
    named = {"in the name of another": "PERMISSION_DENIED", "oversized": "RESOURCE_EXHAUSTED"}
    assert seen == {name: named.get(name, "INVALID_ARGUMENT") for name in seen}
    assert len(seen) == 13
    assert tree.lower.status()["refused"] >= len(seen)
    assert tree.cluster.pids("gcs") == gcs
    # Ordinary streams did not suffer.
    assert victim in {stream["node_id"] for stream in tree.lower.streams()}


def test_a_stopped_raylet_does_not_hold_up_the_others(tree: Tree) -> None:
    with stopped(tree.raylet(tree.nodes["n2"]).pid):
        seen = tree.cluster.run_program(
            PROGRAMS / "relay_views.py",
            [dialect(tree.cluster.env), "n3", tree.lower.address, tree.upper.address],
        )
    assert seen["taken"] == seen["given_back"] == [True, True]
    assert max(seen["taken_ms"]) < 1_500
    assert tree.work(5, "check")["nodes"] == 5


@pytest.mark.parametrize("level", [pytest.param("upper", marks=pytest.mark.slow), "lower"])
def test_a_killed_relay_kills_no_node_and_no_actor(tree: Tree, level: str) -> None:
    before = tree.work(5, "check")
    relay: RelayProcess = getattr(tree, level)
    expected = carried(relay)
    relay.kill()
    time.sleep(5)
    relay.start()
    assert wait_until(lambda: carried(relay) >= expected), relay.status()
    after = tree.work(5, "check")
    assert after["nodes"] == after["ran_on"] == 5
    assert [kept[0] for kept in after["kept"]] == [kept[0] for kept in before["kept"]]
    assert [kept[:-1] for kept in after["kept"]] == before["kept"]


def test_a_killed_raylet_leaves_every_view(tree: Tree) -> None:
    node = tree.nodes["n3"]
    program = f"""
import json, sys, time
sys.path.insert(0, {str(PROGRAMS)!r})
from sync_client import SyncClient
import ray
ray.init(log_to_driver=False)
dead = next(n for n in ray.nodes() if "n3" in n["Resources"])
print(json.dumps(dead["NodeID"]))
"""
    node_id = str(tree.cluster.run_program(program))
    tree.raylet(node).kill()
    late = f"""
import json, sys, time
sys.path.insert(0, {str(PROGRAMS)!r})
from sync_client import SyncClient
clients = [SyncClient(address, {dialect(tree.cluster.env) == "batch"}) for address in sys.argv[1:]]
time.sleep(3)
print(json.dumps([sorted(node.hex() for node in client.seen) for client in clients]))
"""
    assert wait_until(lambda: node_id not in {stream["node_id"] for stream in tree.lower.streams()})
    time.sleep(7)  # the grace time, and the way up
    addresses = [tree.lower.address, tree.upper.address, tree.cluster.address]
    for seen in tree.cluster.run_program(late, addresses):
        assert seen
        assert node_id not in seen
    # The GCS takes its time to notice.
    tree.cluster.wait_for_nodes(4)


def test_a_relay_that_is_told_to_end_ends_in_good_order(tree: Tree) -> None:
    assert tree.lower.terminate() == 0
    assert '"ended"' in tree.lower.log.read_text()


@contextlib.contextmanager
def small_tree(
    env: RayEnv, cluster: Cluster, upstream: str | None = None, **relay: Any
) -> Iterator[RelayProcess]:
    """Put one node behind one relay."""
    with (
        short_directory() as root,
        RelayProcess(env, upstream or cluster.address, root, OPTIONS, **relay) as process,
    ):
        cluster.add_node(through=process.address, resources={"n0": 1}, wait=False)
        streaming = wait_until(lambda: len(process.streams()) == 1, JOIN_TIMEOUT_S)
        assert streaming, f"{process.log.read_text()}\n{cluster.logs()}"
        yield process


def test_tokens_are_carried_and_a_wrong_one_is_refused(ray_env: RayEnv, tmp_path: Path) -> None:
    if ray_env.version == "2.48.0":
        pytest.skip("Ray 2.48 has no tokens")
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    with (
        Cluster(ray_env, num_cpus=1, variables=variables) as cluster,
        # The relay has no token: what it shows upstream, its nodes have shown it.
        small_tree(ray_env, cluster, variables={"RAY_AUTH_MODE": "token"}) as relay,
    ):
        seen = cluster.run_program(PROGRAMS / "relay_work.py", ["2", "start"])
        assert seen["ran_on"] == 2
        strangers = f"""
import json, sys
sys.path.insert(0, {str(PROGRAMS)!r})
from sync_client import SyncClient
said = []
for token in ("", "b" * 64, "a" * 64):
    metadata = (("authorization", "Bearer " + token),) if token else ()
    client = SyncClient(sys.argv[1], True, metadata=metadata)
    said.append(client.refusal(4))
print(json.dumps(said))
"""
        assert cluster.run_program(strangers, [relay.address]) == [
            "UNAUTHENTICATED",
            "UNAUTHENTICATED",
            "OPEN",
        ]
        done = subprocess.run(
            [str(ray_env.bin("ray")), "status", f"--address={relay.address}"],
            env=ray_env.environment(**variables | {"RAY_AUTH_TOKEN": "b" * 64}),
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode != 0
        assert len(relay.streams()) == 1


def certificates(directory: Path) -> dict[str, str]:
    """Make an authority and a certificate for the addresses of tests, as Ray wants them."""
    names = ",".join(f"IP:127.0.0.{last}" for last in range(1, 12))
    outward = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    names += "".join(f",IP:{address}" for address in sorted(map(str, outward)))
    extension = directory / "names"
    extension.write_text(f"subjectAltName={names},DNS:localhost\n")
    commands = [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=ray -keyout tls.key -out tls.csr",
        "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names "
        "-out tls.crt",
    ]
    for command in commands:
        subprocess.run(
            ["openssl", *command.split()], cwd=directory, check=True, capture_output=True
        )
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(directory / "tls.crt"),
        "RAY_TLS_SERVER_KEY": str(directory / "tls.key"),
        "RAY_TLS_CA_CERT": str(directory / "ca.crt"),
    }


def test_tls_is_spoken_on_both_sides(ray_env: RayEnv, tmp_path: Path) -> None:
    variables = certificates(tmp_path)
    with (
        Cluster(ray_env, num_cpus=1, variables=variables) as cluster,
        small_tree(ray_env, cluster, variables=variables) as relay,
    ):
        assert cluster.run_program(PROGRAMS / "relay_work.py", ["2", "start"])["ran_on"] == 2
        assert relay.status()["upstream_connected"]
        plain = f"""
import json, sys
sys.path.insert(0, {str(PROGRAMS)!r})
from sync_client import SyncClient
print(json.dumps(SyncClient(sys.argv[1], True).refusal(5)))
"""
        assert ray_env.run_program(plain, [relay.address]) == "UNAVAILABLE"


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[str]:
    """Run a Redis that keeps nothing on disk; yield its address."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--dir", str(directory)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("store", ["redis", "embedded"])
def test_a_restarted_gcs_gets_everything_back(ray_env: RayEnv, tmp_path: Path, store: str) -> None:
    if store == "embedded" and ray_env.version == "2.48.0":
        pytest.skip("Ray 2.48 has no embedded store")
    with contextlib.ExitStack() as stack:
        if store == "redis":
            variables = {"RAY_REDIS_ADDRESS": stack.enter_context(redis(tmp_path))}
        else:
            variables = {
                "RAY_gcs_storage": "rocksdb",
                "RAY_gcs_storage_path": str(tmp_path / "store"),
            }
        cluster = stack.enter_context(Cluster(ray_env, num_cpus=1, variables=variables))
        relay = stack.enter_context(small_tree(ray_env, cluster))
        before = cluster.run_program(PROGRAMS / "relay_work.py", ["2", "start"])
        connects = relay.metric("mantaray_relay_sync_upstream_connects_total")
        restart_gcs(cluster)
        again = wait_until(
            lambda: relay.metric("mantaray_relay_sync_upstream_connects_total") > connects
        )
        assert again, relay.log.read_text()
        after = cluster.run_program(PROGRAMS / "relay_work.py", ["2", "check"])
        assert after["ran_on"] == 2
        assert [kept[:-1] for kept in after["kept"]] == before["kept"]
        # The raylet did not have to come again.
        assert relay.log.read_text().count('"stream taken"') == 1


def restart_gcs(cluster: Cluster) -> None:
    """Kill the GCS and start it again as it was."""
    # Else `ray start --block` would end the whole head with its GCS.
    cluster.nodes[0].process.send_signal(signal.SIGSTOP)
    (gcs,) = cluster.processes("gcs")
    command, variables, cwd = gcs.cmdline(), gcs.environ(), gcs.cwd()
    gcs.kill()
    # It stays a zombie: its parent is stopped.
    time.sleep(2)
    subprocess.Popen(
        command,
        env=variables,
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class Wire:
    """A wire between a relay and its upstream that can be cut: bytes wait, and nobody is told."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Carry nothing from now on."""
        self._open.clear()

    def heal(self) -> None:
        """Carry again. Connections from before are reset, as a firewall that forgot them does."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()
        self._open.set()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            self._open.wait()
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_a_network_cut_above_the_relay_heals(ray_env: RayEnv) -> None:
    with Cluster(ray_env, num_cpus=1) as cluster:
        wire = Wire(cluster.address)
        with small_tree(ray_env, cluster, upstream=wire.address) as relay:
            before = cluster.run_program(PROGRAMS / "relay_work.py", ["2", "start"])
            wire.cut()
            time.sleep(8)
            wire.heal()
            assert wait_until(lambda: bool(relay.status()["upstream_connected"])), relay.status()
            after = cluster.run_program(PROGRAMS / "relay_work.py", ["2", "check"])
            assert after["ran_on"] == 2
            assert [kept[:-1] for kept in after["kept"]] == before["kept"]


@pytest.mark.slow
def test_the_heads_own_relay_is_started_again_and_goes_with_it(ray_env: RayEnv) -> None:
    port, admin = free_ports(2)
    variables = {"MANTARAY_RELAY_PORT": str(port), "MANTARAY_RELAY_ADMIN_PORT": str(admin)}
    with Cluster(ray_env, num_cpus=1, variables=variables) as cluster:

        def relays() -> list[psutil.Process]:
            return [
                process
                for process in cluster.processes()
                if Path(process.name()).name == "mantaray-relay"
            ]

        assert wait_until(lambda: len(relays()) == 1)
        cluster.add_node(through=f"127.0.0.9:{port}")
        first = relays()[0]
        first.kill()
        assert wait_until(lambda: [p.pid for p in relays()] not in ([], [first.pid]))
        for role in ("raylet", "gcs"):
            for pid in cluster.pids(role):
                os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not relays())


def test_bad_relay_port_stops_ray_start_with_one_sentence(ray_env: RayEnv) -> None:
    words = "MANTARAY_RELAY_PORT is set to 'many'"
    assert_start_refused(ray_env, words, MANTARAY_RELAY_PORT="many")


def test_nothing_is_lost_or_changed_between_grpcio_and_grpcio(ray_env: RayEnv) -> None:
    program = ray_env.bin("python").parent / "mantaray"
    where = "from mantaray.syncer import relay_program; print(relay_program())"
    done = subprocess.run(
        [str(ray_env.python), "-c", where], capture_output=True, text=True, check=True
    )
    assert program.exists()
    seen = ray_env.run_program(PROGRAMS / "relay_proxy.py", [done.stdout.strip()])
    for way in ("through", "through_two"):
        told = seen[way]
        for what in ("echo", "empty", "big", "talk", "silent_talk", "greeted"):
            assert told[what], what
        assert told["deadline_cancels"]
        assert told["cancels"]
        assert told["failure"] == {
            "code": "DATA_LOSS",
            "details": "lost: \u00e4 %\n",
            "trailing": [["raw-bin", "00ff"], ["why", "because"], ["why", "twice"]],
        }
        assert told["unknown"] == "UNIMPLEMENTED"
        assert 15 < told["deadline_left"] < 25
        assert told["deadline"] == "DEADLINE_EXCEEDED"
        assert told["initial"] == [["bytes-bin", "0102"], ["first", "yes"]]
        sent = [["authorization", "Bearer x"], ["node_id", "ab"], ["raw-bin", "0001"]]
        assert all(entry in told["metadata"] for entry in sent)
        assert [v for k, v in told["metadata"] if k == "twice"] == ["1", "2"]
        assert (told["sum"], told["count"], told["ping_pong"]) == (499_500, 3_000, 200)
    assert seen["health"] == "0801"
    assert seen["health_of_others"] == "UNIMPLEMENTED"
    assert seen["watched"] == ["0801", "0802"]
    assert seen["ring"] == "FAILED_PRECONDITION"
    assert seen["no_upstream"] == "UNAVAILABLE"
    assert seen["status"] == 0


def test_python_starts_asks_and_ends_a_relay(ray_env: RayEnv) -> None:
    program = """
import json, os
from mantaray.syncer import Relay, RelayError, fetch_status
with Relay(upstream="127.0.0.1:1", listen="127.0.0.1:0", window_ms=7) as relay:
    pid, status = relay.pid, relay.status()
    same = fetch_status(relay.admin) == status and "mantaray_relay_sync_nodes 0" in relay.metrics()
    try:
        Relay(upstream="127.0.0.1:1", listen=f"127.0.0.1:{relay.port}").start()
        taken = "started"
    except RelayError as error:
        taken = str(error)
try:
    Relay(upstream="nowhere").start()
    wrong = "started"
except RelayError as error:
    wrong = str(error)
gone = not os.path.exists(f"/proc/{pid}")
print(json.dumps([same, status.window_ms, status.upstream_connected, taken, wrong, gone]))
"""
    same, window_ms, connected, taken, wrong, gone = ray_env.run_program(program)
    assert (same, window_ms, connected, gone) == (True, 7, False, True)
    assert "cannot listen on 127.0.0.1:" in taken
    assert "--upstream is 'nowhere'; allowed: HOST:PORT" in wrong


def test_a_ring_of_relays_is_refused(ray_env: RayEnv) -> None:
    program = """
import json, sys, time
from mantaray.syncer import Relay
sys.path.insert(0, sys.argv[1])
from sync_client import SyncClient
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0)); port = probe.getsockname()[1]
with Relay(upstream=f"127.0.0.1:{port}") as one:
    with Relay(upstream=f"127.0.0.1:{one.port}", listen=f"127.0.0.1:{port}"):
        time.sleep(1)
        print(json.dumps(SyncClient(f"127.0.0.1:{port}", True).refusal(25)))
"""
    assert ray_env.run_program(program, [PROGRAMS]) == "FAILED_PRECONDITION"
