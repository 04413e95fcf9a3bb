"""The load generator against the real GCS: what it reports is what happened, whatever carries it.

A benchmark that lost or invented messages would make its comparison worthless.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import REPOSITORY, RayEnv

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import sync_arms
import sync_storm

# The programs that are measured have tests of their own; this is for whoever changes the generator.
pytestmark = pytest.mark.slow

NODES = 20
HZ = 5.0
SECONDS = 2.0
WORKERS = 3


@pytest.fixture(scope="module")
def generator() -> Path:
    """The load generator, built."""
    return sync_arms.build(sync_arms.GENERATOR)


@pytest.fixture(scope="module")
def relay() -> sync_arms.RelayCommand:
    """The relay, built."""
    return sync_arms.RelayCommand(sync_arms.build(sync_arms.RELAY))


@pytest.fixture(
    scope="module",
    params=[("direct", "light"), ("direct", "grpc"), ("relays-2", "light")],
    ids="-".join,
)
def run(
    request: pytest.FixtureRequest,
    ray_env: RayEnv,
    generator: Path,
    relay: sync_arms.RelayCommand,
) -> Iterator[Any]:
    """One run against a fresh GCS."""
    arm, client = request.param
    load = sync_storm.Load(
        nodes=NODES,
        hz=HZ,
        seconds=SECONDS,
        bursts=2,
        settle_s=20,
        client=client,
        material_every=1,
        workers=WORKERS,
    )
    yield sync_storm.run_once(
        ray_env.version,
        sync_arms.parse_arm(arm),
        load,
        relay,
        generator,
        sync_arms.build(sync_arms.WORKER_CALLS),
    )


def test_every_view_reaches_every_other_node_unchanged(run: dict[str, Any]) -> None:
    assert run["missing"] == 0
    assert (run["own"], run["foreign"], run["damaged"]) == (0, 0, 0)
    assert run["settle_ms"] >= 0
    assert len(run["burst_ms"]) == 2
    assert min(run["burst_ms"]) > 0


def test_every_published_view_is_counted_once_for_every_other_node(run: dict[str, Any]) -> None:
    expected = NODES * (NODES - 1) * HZ * SECONDS
    # A view of each node may fall on either side of the ends of the measured time.
    assert abs(run["measured"] - expected) <= 2 * NODES * (NODES - 1)
    assert 0 < run["staleness_p50_ms"] <= run["staleness_p99_ms"] <= run["staleness_max_ms"]


def test_processes_of_the_nodes_wait_and_are_answered(run: dict[str, Any]) -> None:
    assert run["polls_waiting"] == NODES * WORKERS
    assert run["calls"] > NODES
    assert run["calls_failed"] == 0
    assert 0 < run["call_p50_ms"] <= run["call_p99_ms"]


def test_cpu_of_the_gcs_is_read(run: dict[str, Any]) -> None:
    # Both are counted in ticks of a hundredth of a second, read one after the other.
    assert 0 <= run["gcs_cpu_s"] <= run["machine_cpu_s"] + 0.1
    assert run["gcs_rss_mb"] > 1


@pytest.mark.parametrize("client", sync_storm.CLIENTS)
def test_a_server_that_is_not_there_is_an_error_and_no_figures(
    client: str, generator: Path, tmp_path: Path
) -> None:
    port = sync_arms.free_ports(1)
    with (
        sync_arms.Generator(generator, port, tmp_path / "said", client=client, nodes=2) as storm,
        pytest.raises(RuntimeError, match=r"node [01]: "),
    ):
        list(storm.events())
