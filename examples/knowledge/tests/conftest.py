"""Fixtures: a store's directory, the real embedder, and one Ray cluster for the whole run.

Nothing here reaches for a network: the model's weights are installed, and Ray keeps to this machine.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PROJECT = Path(__file__).resolve().parents[1]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Time to start in, for a machine that is slow: half a minute if nothing else is said.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "240")
os.environ.setdefault("RAY_agent_register_timeout_ms", "240000")
# Workers and subprocesses find the package as the tests do.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")])
)

STORE_BYTES = 150_000_000
# How long an example takes says something about the machine alone.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    """A directory for a store, empty."""
    return tmp_path / "store"


@pytest.fixture(scope="session")
def embedder():  # type: ignore[no-untyped-def]
    """The real model, loaded once."""
    from knowledge.embedding import SentenceEmbedder

    return SentenceEmbedder()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local Ray with two CPUs and a small object store, for all tests; this process is its driver.

    Yields:
        Its address, for further drivers (RAY_ADDRESS).
    """
    import ray

    # Ray's sockets have short names: not below pytest's own long directory.
    directory = tempfile.mkdtemp(prefix="kn-", dir="/tmp")
    context = ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=directory,
        _node_ip_address="127.0.0.2",
    )
    try:
        yield str(context.address_info["gcs_address"])
    finally:
        if "ray.serve" in sys.modules:
            from ray import serve

            serve.shutdown()
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def running(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The service with a small corpus, for all tests that ask it; its queue can be filled."""
    from served import served

    with served(tmp_path_factory.mktemp("memory"), capacity=4, workers=2) as started:
        yield started


def free_port() -> int:
    """Return a port that was free a moment ago, below those that the kernel gives out."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        end = max(int(file.read().split()[0]), 20_000)
    while True:
        port = random.SystemRandom().randrange(10_000, end)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
