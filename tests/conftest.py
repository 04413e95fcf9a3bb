"""What every test gets: markers that skip, no limits of time for examples, no process that stays."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import processes, rays

# How long an example takes says something about the machine alone.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need root where there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("needs_root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_run() -> Iterator[None]:
    """Fail the run when something that a test started is still there at its end; end it, too."""
    tag = rays.session_tag()
    yield
    left = processes.wait_until_gone(tag)
    if left:
        names = processes.describe(left)
        processes.stop_all(tag)
        pytest.fail(f"tests left processes behind (they are ended now):\n{names}")
