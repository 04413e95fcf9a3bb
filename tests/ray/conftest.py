"""Fixtures of the live tests."""

from __future__ import annotations

import pytest

from tests.support.rays import VERSIONS, RayEnv, find_ray

# A whole test run stays below 45 minutes on two cores: on the older Ray these run with the slow
# tests only.
_SLOW_ON_OLDER_RAY = (
    "test_refcount_conformance.py",
    "test_logs_live.py::test_whole_logs_are_answered_as_by_stock_ray",
    "test_relay_parts_live.py::test_nothing_is_lost_or_changed_between_grpcio_and_grpcio",
    "test_spill_live.py::test_killed_io_workers_lose_nothing_and_leave_nothing",
    "test_spill_live.py::test_pulls_by_another_node_racing_frees_never_read_zeros",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests above as slow on all but the newest Ray."""
    for item in items:
        older = any(f"ray-{version}" in item.nodeid for version in VERSIONS[:-1])
        if older and any(name in item.nodeid for name in _SLOW_ON_OLDER_RAY):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=VERSIONS, ids=[f"ray-{version}" for version in VERSIONS])
def ray_env(request: pytest.FixtureRequest) -> RayEnv:
    """An environment with an official Ray and Mantaray; a test runs once with each of VERSIONS."""
    return find_ray(request.param)
