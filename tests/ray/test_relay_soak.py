"""A relay for half an hour among 200 simulated nodes, with faults that a seed chooses.

    GCS (of Ray 2.60) <- relay that is killed <- wire that is cut <- relay under test <- nodes, clients

The nodes come, publish once a second, and go, again and again. Meanwhile clients break the protocol,
flood the relay with watches and with uploads, or stop reading. The relay's memory and its descriptors
have to stay what they were, no view may be lost, and the relay has to answer all the time.

`MANTARAY_SOAK_S` sets another length in seconds, and `MANTARAY_SOAK_SEED` another seed.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import bad_clients, http2
from tests.support.rays import REPOSITORY, VERSIONS, RayEnv, find_ray
from tests.support.relays import RelayProcess, Wire

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import sync_arms

pytestmark = pytest.mark.slow

SOAK_S = float(os.environ.get("MANTARAY_SOAK_S", "1800"))
SEED = int(os.environ.get("MANTARAY_SOAK_SEED", "20261130"))
NODES = 200
# The nodes publish for so long, then leave.
PUBLISH_S = 20.0
CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
PUT = "/ray.rpc.InternalKVGcsService/InternalKVPut"
OPTIONS = ("--grace-ms=2000", "--max-memory-bytes=300000000")
# What a short run needs until every kind of fault has come.
EVERY_FAULT_AFTER_S = 600
# How gRPC says that there is no connection, or that it has ended during a call.
UPSTREAM_IS_AWAY = ("failed to connect to all addresses", "Socket closed", "Connection reset")


@dataclass
class Soak:
    """What was seen."""

    call_ms: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    staleness_p99_ms: list[float] = field(default_factory=list)
    refused_rounds: int = 0
    missing: int = 0
    damaged: int = 0
    faults: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def generator() -> Path:
    """The load generator, built."""
    return sync_arms.build(sync_arms.GENERATOR)


def call_forever(port: int, soak: Soak, stop: threading.Event) -> None:
    """Call the GCS through the relay, ten times a second, and note how long each call takes."""
    clients = http2.Clients(port)
    client = clients.connect()
    stream = 1
    while not stop.wait(0.1):
        if client.closed:
            client, stream = clients.connect(), 1
        began = time.monotonic()
        client.send(http2.request(stream, CALL, b""))
        if clients.run(lambda: stream in client.ended or client.closed, 30.0):  # noqa: B023
            soak.call_ms.append(1000 * (time.monotonic() - began))
        else:
            soak.call_ms.append(30_000.0)
        stream += 2
    clients.close()


class Faults:
    """The faults.

    Args:
        relay: under test.
        upper: the relay above it.
        wire: between them.
        choose: decides how each fault goes.
    """

    def __init__(
        self, relay: RelayProcess, upper: RelayProcess, wire: Wire, choose: random.Random
    ) -> None:
        self._relay = relay
        self._upper = upper
        self._wire = wire
        self._choose = choose
        self.kinds = (
            *(self.bad_client, self.watches, self.uploads, self.stopped_readers),
            *(self.kill, self.cut),
        )

    def bad_client(self) -> None:
        """Clients break the protocol."""
        misbehave = self._choose.choice(bad_clients.ALL)
        for _ in range(self._choose.randrange(1, 50)):
            misbehave(http2.Client(self._relay.port, window_bytes=0))

    def watches(self) -> None:
        """A client watches the relay's health many times."""
        client = http2.Client(self._relay.port)
        for number in range(self._choose.randrange(100, 5_000)):
            client.send(http2.request(2 * number + 1, bad_clients.WATCH, bad_clients.RELAY))
        client.close(reset=self._choose.random() < 0.5)

    def uploads(self) -> None:
        """Clients upload much, and some leave in the middle."""
        clients = http2.Clients(self._relay.port)
        for _ in range(self._choose.randrange(5, 30)):
            clients.connect().upload(1, PUT, bytes(20_000_000))
        clients.run(lambda: all(client.ended for client in clients.all), self._choose.uniform(0, 3))
        clients.close()

    def stopped_readers(self) -> None:
        """Clients open calls and read nothing."""
        clients = [http2.Client(self._relay.port, window_bytes=0) for _ in range(50)]
        for client in clients:
            client.send(http2.request(1, CALL, b""))
        time.sleep(self._choose.uniform(0, 2))
        for client in clients:
            client.close()

    def kill(self) -> None:
        """The relay above dies and comes back."""
        self._upper.kill()
        time.sleep(self._choose.uniform(0, 2))
        self._upper.start()

    def cut(self) -> None:
        """The network above is gone for a moment."""
        self._wire.cut()
        time.sleep(self._choose.uniform(0, 3))
        self._wire.heal()


def break_things(faults: Faults, choose: random.Random, soak: Soak, stop: threading.Event) -> None:
    """Cause one fault after the other until the soak is over."""
    while not stop.wait(choose.uniform(0, 4)):
        fault = choose.choice(faults.kinds)
        soak.faults[fault.__name__] = soak.faults.get(fault.__name__, 0) + 1
        fault()


def publish(generator: Path, port: int, directory: Path, soak: Soak) -> None:
    """Let nodes come, publish, and go. Each time they are other nodes, as Ray never uses an id again."""
    with sync_arms.Generator(
        generator,
        [port],
        directory / "generator.log",
        dialect="batch",
        client="light",
        material_every=1,
        nodes=NODES,
        seed=len(soak.staleness_p99_ms) + 1,
        hz=1,
        seconds=PUBLISH_S,
        bursts=0,
        settle_s=30,
        join_s=40,
    ) as storm:
        seen: dict[str, Any] = {}
        for told in storm.events():
            if "event" not in told:
                seen |= told
    soak.missing += seen["missing"]
    soak.damaged += seen["damaged"] + seen["own"]
    soak.staleness_p99_ms.append(seen["staleness_p99_ms"])


def note_what_it_takes(relay: RelayProcess, soak: Soak) -> None:
    """Note the memory and the descriptors of a relay whose nodes have gone."""
    process = psutil.Process(relay.pid)
    soak.memory_bytes.append(process.memory_info().rss)
    soak.descriptors.append(process.num_fds())
    print(
        f"{soak.memory_bytes[-1] // 1_000_000} MB, {soak.descriptors[-1]} descriptors", flush=True
    )


@pytest.fixture
def env() -> Iterator[RayEnv]:
    """The newest Ray."""
    yield find_ray(VERSIONS[-1])


@pytest.mark.timeout(SOAK_S + 600)
def test_half_an_hour_of_faults_leaves_memory_and_descriptors_as_they_were(
    env: RayEnv, generator: Path, tmp_path: Path
) -> None:
    soak = Soak()
    stop = threading.Event()
    with (
        sync_arms.scratch() as directory,
        sync_arms.gcs_server(env.version, directory, {}) as (_, gcs_port),
        RelayProcess(env, f"127.0.0.1:{gcs_port}", tmp_path, OPTIONS) as upper,
    ):
        wire = Wire(f"127.0.0.1:{upper.port}")
        with RelayProcess(env, wire.address, tmp_path, OPTIONS) as relay:
            pid = relay.pid
            faults = Faults(relay, upper, wire, random.Random(SEED))
            threads = [
                threading.Thread(target=call_forever, args=(relay.port, soak, stop)),
                threading.Thread(
                    target=break_things, args=(faults, random.Random(SEED + 1), soak, stop)
                ),
            ]
            for thread in threads:
                thread.start()
            end = time.monotonic() + SOAK_S
            try:
                while time.monotonic() < end:
                    try:
                        publish(generator, relay.port, tmp_path, soak)
                    except RuntimeError as error:
                        # Without its upstream, or when that dies while it is asked, the relay cannot
                        # know whether a new node may come, and refuses it. A raylet comes again, and
                        # so do these nodes.
                        if not any(words in str(error) for words in UPSTREAM_IS_AWAY):
                            raise
                        soak.refused_rounds += 1
                        continue
                    note_what_it_takes(relay, soak)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            # The process is still the same.
            os.kill(pid, 0)
            assert relay.answer("/healthz") == 200
    calls = sorted(soak.call_ms)
    print(
        f"{SOAK_S:.0f} s, seed {SEED}, faults {soak.faults}\n"
        f"calls: {len(calls)}, p50 {calls[len(calls) // 2]:.1f} ms, "
        f"p99 {calls[99 * len(calls) // 100]:.1f} ms\n"
        f"staleness p99, by round: {[round(p99) for p99 in soak.staleness_p99_ms]} ms\n"
        f"memory: {[mb // 1_000_000 for mb in soak.memory_bytes]} MB\n"
        f"descriptors: {soak.descriptors}\n"
        f"rounds: {len(soak.memory_bytes)}, refused: {soak.refused_rounds}"
    )
    assert soak.refused_rounds <= len(soak.memory_bytes)
    assert (soak.missing, soak.damaged) == (0, 0)
    assert (
        set(soak.faults) == {kind.__name__ for kind in faults.kinds} or SOAK_S < EVERY_FAULT_AFTER_S
    )
    # A flood that is going on takes memory and descriptors. What a relay never gives back shows in the
    # least that it takes. A short run has too few rounds to tell.
    if SOAK_S < EVERY_FAULT_AFTER_S:
        return
    third = len(soak.memory_bytes) // 3
    for taken, slack in ((soak.memory_bytes, 20_000_000), (soak.descriptors, 50)):
        assert min(taken[-third:]) < 1.2 * min(taken[:third]) + slack
