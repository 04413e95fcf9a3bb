"""Serve's router where requests go to replicas over gRPC: nothing hangs, nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import free_ports
from tests.support.rays import RayEnv

PROGRAM = Path(__file__).with_name("programs") / "serve_router_grpc.py"
# Ray 2.48 has no such transport.
FIRST_RAY = "2.54.0"
MODES = {
    "grpc": {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1"},
    "throughput": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=MODES)
def seen(ray_env: RayEnv, request: pytest.FixtureRequest) -> Any:
    """What one cluster has shown."""
    if tuple(map(int, ray_env.version.split("."))) < tuple(map(int, FIRST_RAY.split("."))):
        pytest.skip(f"Ray {ray_env.version} sends no requests over gRPC")
    return ray_env.run_program(PROGRAM, [str(free_ports(1)[0])], MODES[request.param])


def test_burst_over_grpc_is_answered_without_waiting_for_the_clock(seen: Any) -> None:
    assert seen["over gRPC"] is True
    assert seen["one"]["answered"] == 20
    assert seen["roomy"]["answered"] == 80


def test_streams_over_grpc_are_whole(seen: Any) -> None:
    assert seen["streams"] == [list(range(5))] * 3


def test_failures_of_the_users_code_over_grpc_free_their_slots(seen: Any) -> None:
    assert seen["failing"]["failed"] == 10
    assert seen["failing"]["answered"] == 5


def test_killed_replica_takes_few_requests_with_it_over_grpc_and_none_hangs(seen: Any) -> None:
    killed = seen["killed"]
    assert killed["hanging"] == 0, killed
    # What it was serving; and one that was on its way.
    assert killed["failed"] <= 2, killed
    assert killed["answered"] + killed["failed"] == 30
    assert seen["after the kill"] == 10


def test_deployment_over_grpc_scales_from_zero_to_one_and_back(seen: Any) -> None:
    assert seen["zero"] == [5, 5]
    assert seen["is zero again"]
