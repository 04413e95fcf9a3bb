"""One service for all tests that kill something; of each kind there is one that can be spared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Served, served


@pytest.fixture(scope="package")
def running(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with two replicas."""
    with served(tmp_path_factory.mktemp("memory"), service_replicas=2) as started:
        yield started
