"""The simulated nodes and workers of `benchmarks/gcs_work.py`: the real GCS takes them for real."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.rays import REPOSITORY, RayEnv

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import gcs_work
import sync_arms

# As test_sync_storm_live: for whoever changes the generators.
pytestmark = pytest.mark.slow

NODES = 10
SECONDS = 2.0


@pytest.fixture(scope="module")
def programs() -> gcs_work.Programs:
    """All that a run starts besides the GCS, built."""
    targets = (
        sync_arms.RELAY,
        sync_arms.GENERATOR,
        sync_arms.WORKER_CALLS,
        sync_arms.RAYLET_ANSWERS,
    )
    return gcs_work.Programs(*map(sync_arms.build, targets))


@pytest.mark.parametrize("arm", ["direct", "relays", "tree", "relays/unshared"])
def test_nodes_are_registered_and_every_read_of_a_starting_worker_is_answered(
    arm: str, ray_env: RayEnv, programs: gcs_work.Programs
) -> None:
    cell = gcs_work.Cell(ray_env.version, NODES, 4.0, arm, "reads")
    run: dict[str, Any] = gcs_work.run_once(cell, programs, SECONDS, {})
    assert run["missing"] == 0
    assert run["calls_failed"] == 0
    # Nobody is left behind, and nobody was skipped.
    assert run["calls"] >= 0.8 * NODES * gcs_work.READS * cell.starts_per_s * SECONDS
    # The GCS lets every process wait for news of nodes.
    assert run["polls_waiting"] == NODES * gcs_work.WORKERS
    assert run["gcs_cpu_s"] > 0
