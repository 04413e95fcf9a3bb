"""Fixtures of the live tests."""

from __future__ import annotations

import pytest

from tests.support.rays import VERSIONS, RayEnv, find_ray


@pytest.fixture(scope="session", params=VERSIONS, ids=[f"ray-{version}" for version in VERSIONS])
def ray_env(request: pytest.FixtureRequest) -> RayEnv:
    """An environment with an official Ray and Mantaray; a test runs once with each of VERSIONS."""
    return find_ray(request.param)
