"""Small relays on both Rays: TLS, tokens, Redis, the proxy alone, the Python interface, the command line.

What four raylets behind relays see is in test_relay_live.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mantaray
from tests.support.cluster import Cluster, free_ports
from tests.support.rays import RayEnv, assert_start_refused, short_directory
from tests.support.relays import (
    RelayProcess,
    add_nodes,
    dialect_of,
    gcs_store,
    restart_gcs,
    wait_until,
)

PROGRAMS = Path(__file__).with_name("programs")


@contextlib.contextmanager
def node_behind_relay(env: RayEnv, cluster: Cluster, **relay: Any) -> Iterator[RelayProcess]:
    """Put one node behind one relay."""
    with (
        short_directory() as root,
        RelayProcess(env, cluster.address, root, **relay) as process,
    ):
        add_nodes(cluster, process, ["n0"])
        yield process


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


# Arguments: the relay's address, a directory with the certificates, a dialect, tokens. Prints how a
# node ends that comes without TLS, one without a certificate, and one with each of the tokens.
STRANGERS = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(PROGRAMS)!r})
import grpc
from sync_client import SyncClient
address, directory, dialect, *tokens = sys.argv[1:]
authority, key, own = ((Path(directory) / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt"))
nameless = grpc.ssl_channel_credentials(authority)
secret = grpc.ssl_channel_credentials(authority, key, own)
said = [SyncClient(address, True, credentials=with_).refusal() for with_ in (None, nameless)]
for token in tokens:
    metadata = (("authorization", "Bearer " + token),) if token else ()
    client = SyncClient(address, dialect == "batch", metadata=metadata, credentials=secret)
    # One that is let in is told of the nodes that are there.
    client.wait(lambda c: c.seen or c.ended.is_set())
    said.append(client.refusal(0.5))
print(json.dumps(said))
"""


def test_tls_is_spoken_and_a_wrong_token_is_refused(ray_env: RayEnv, tmp_path: Path) -> None:
    # Ray 2.48 has no tokens.
    has_tokens = ray_env.version != "2.48.0"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64} if has_tokens else {}
    tls = certificates(tmp_path)
    with (
        Cluster(ray_env, num_cpus=1, variables=tls | token) as cluster,
        # The relay has no token: what it shows upstream, its nodes have shown it.
        node_behind_relay(ray_env, cluster, variables=tls | {"RAY_USE_TLS": "TRUE"}) as relay,
    ):
        assert cluster.run_program(PROGRAMS / "relay_work.py", ["2", "start"])["ran_on"] == 2
        assert relay.status()["upstream_connected"]
        tokens = ["", "b" * 64, "a" * 64] if has_tokens else [""]
        arguments: list[str | Path] = [relay.address, tmp_path, dialect_of(ray_env), *tokens]
        said = ray_env.run_program(STRANGERS, arguments)
        refused = ["UNAUTHENTICATED"] * 2 if has_tokens else []
        assert said == ["UNAVAILABLE", "UNAVAILABLE", *refused, "OPEN"]
        # The token decides, and nothing else.
        for letter, answers in {"a": True, "b": False}.items() if has_tokens else ():
            done = subprocess.run(
                [str(ray_env.bin("ray")), "status", "-v", f"--address={relay.address}"],
                env=ray_env.environment(**tls | token | {"RAY_AUTH_TOKEN": letter * 64}),
                capture_output=True,
                text=True,
                timeout=180,
            )
            assert (done.returncode == 0) == answers, done.stderr
            node = relay.streams()[0]["node_id"]
            assert (node in done.stdout) == answers, done.stdout
        assert wait_until(lambda: len(relay.streams()) == 1)


@pytest.mark.slow
def test_a_gcs_that_comes_back_from_redis_gets_everything_back(
    ray_env: RayEnv, tmp_path: Path
) -> None:
    with (
        gcs_store(tmp_path, embedded=False) as store,
        Cluster(ray_env, num_cpus=1, variables=store) as cluster,
        node_behind_relay(ray_env, cluster, options=["--upstream-timeout-ms=600000"]) as relay,
    ):
        before = cluster.run_program(PROGRAMS / "relay_work.py", ["2", "start"])
        connects = "mantaray_relay_sync_upstream_connects_total"
        connected = relay.metric(connects)
        restart_gcs(cluster)
        assert wait_until(lambda: relay.metric(connects) > connected), relay.log.read_text()
        after = cluster.run_program(PROGRAMS / "relay_work.py", ["2", "check"])
        assert after["ran_on"] == 2
        assert [kept[:-1] for kept in after["kept"]] == before["kept"]
        # The raylet did not have to come again.
        assert relay.told("stream taken") == 1


def test_bad_relay_port_stops_ray_start_with_one_sentence(ray_env: RayEnv) -> None:
    words = "MANTARAY_RELAY_PORT is set to 'many'"
    assert_start_refused(ray_env, words, MANTARAY_RELAY_PORT="many")


def test_the_relay_says_which_version_it_is(ray_env: RayEnv) -> None:
    done = subprocess.run(
        [str(ray_env.bin("mantaray")), "relay", "--version"],
        env=ray_env.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"mantaray-relay {mantaray.__version__}\n"


def test_nothing_is_lost_or_changed_between_grpcio_and_grpcio(ray_env: RayEnv) -> None:
    program = ray_env.bin("python").parent / "mantaray"
    where = "from mantaray.syncer import relay_program; print(relay_program())"
    done = subprocess.run(
        [str(ray_env.python), "-c", where], capture_output=True, text=True, check=True
    )
    assert program.exists()
    ports = map(str, free_ports(6))
    seen = ray_env.run_program(PROGRAMS / "relay_proxy.py", [done.stdout.strip(), *ports])
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
        assert 50 < told["deadline_left"] < 101
        assert told["deadline"] == "DEADLINE_EXCEEDED"
        assert told["initial"] == [["bytes-bin", "0102"], ["first", "yes"]]
        sent = [["authorization", "Bearer x"], ["node_id", "ab"], ["raw-bin", "0001"]]
        assert all(entry in told["metadata"] for entry in sent)
        assert [v for k, v in told["metadata"] if k == "twice"] == ["1", "2"]
        assert (told["sum"], told["count"], told["ping_pong"]) == (499_500, 3_000, 200)
    assert seen["health"] == "0801"
    assert seen["health_of_others"] == "UNIMPLEMENTED"
    assert seen["long_polls"] == {"most": 2_000, "answered": 2_000}
    assert seen["drained"]
    assert seen["not_drained"] == "UNAVAILABLE"
    assert seen["watched"] == ["0801", "0802"]
    assert seen["ring"] == "FAILED_PRECONDITION"
    assert seen["no_upstream"] == "UNAVAILABLE"
    assert seen["status"] == 0


def test_nodes_do_not_stay_on_a_token_that_was_taken_back(ray_env: RayEnv) -> None:
    seen = ray_env.run_program(PROGRAMS / "relay_expelled.py")
    assert seen == {
        "before": True,
        "sent_away": "UNAUTHENTICATED",
        "again": "UNAUTHENTICATED",
        # The relay now shows the token of one that may stay.
        "other_heard": True,
        "other_stays": True,
    }


@pytest.mark.slow
def test_a_scale_down_is_no_storm_of_withdrawals_and_forgets_no_node(ray_env: RayEnv) -> None:
    # Among the nodes that leave is the last one, after which nobody is left to show a token.
    seen = ray_env.run_program(PROGRAMS / "relay_withdraw.py", ["60"])
    assert seen == {"most": 4, "withdrawn": 60, "tokens": ["Bearer one"]}


def test_a_relay_does_not_show_an_expired_token_while_it_has_a_newer_one(ray_env: RayEnv) -> None:
    seen = ray_env.run_program(PROGRAMS / "relay_expiring.py")
    assert seen == {"shown": ["Bearer 039"], "sent_away": 0, "heard": True}


def test_a_relay_whose_upstream_is_gone_closes_every_connection_until_it_is_back(
    ray_env: RayEnv,
) -> None:
    seen = ray_env.run_program(PROGRAMS / "relay_gone.py")
    assert seen.pop("answers") == [200, 503, 503]
    assert all(seen.values()), seen
    assert len(seen) == 9


def test_a_package_that_all_nodes_fetch_at_once_is_held_once(ray_env: RayEnv) -> None:
    seen = ray_env.run_program(PROGRAMS / "relay_limits.py")
    # 30 fetches of 8 MB each.
    assert seen.pop("peak_bytes") < 100_000_000
    assert seen == {
        **{"fetched": True, "asked": 1, "shared": 29},
        # An answer that is no package is taken for nobody else.
        **{"none": True, "asked_for_none": 30},
        # A flood of watches takes no more memory than this many.
        "watches": {"told": 100, "RESOURCE_EXHAUSTED": 50},
        **{"watches_again": True, "held_bytes": 0},
    }


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


def test_a_ring_of_relays_is_refused_counted_and_told(ray_env: RayEnv, tmp_path: Path) -> None:
    program = """
import json, sys, time
from mantaray.syncer import Relay
sys.path.insert(0, sys.argv[1])
from sync_client import SyncClient
port = sys.argv[3]
counted = 'mantaray_relay_sync_refused_total{reason="loop"} '
one = Relay(upstream=f"127.0.0.1:{port}").start()
with Relay(upstream=f"127.0.0.1:{one.port}", listen=f"127.0.0.1:{port}", log=sys.argv[2]) as two:
    # Who comes before the ring is closed finds no GCS behind it.
    deadline = time.monotonic() + 60
    while True:
        said = SyncClient(f"127.0.0.1:{port}", True).refusal()
        if said != "UNAVAILABLE" or time.monotonic() > deadline:
            break
    # With the first relay goes who is refused again and again.
    one.stop()
    (count,) = (l for l in two.metrics().splitlines() if l.startswith(counted))
    print(json.dumps([said, float(count.removeprefix(counted)), two.status().refused]))
"""
    log = tmp_path / "log"
    port = str(free_ports(1)[0])
    said, counted, refused = ray_env.run_program(program, [PROGRAMS, log, port])
    assert said == "FAILED_PRECONDITION"
    assert counted == refused >= 1
    told = [json.loads(line) for line in log.read_text().splitlines()]
    reasons = [one["reason"] for one in told if one["event"] == "stream refused"]
    assert reasons == ["sync stream refused: it has come through this relay before"] * refused
