"""Fixtures of the live tests."""

from __future__ import annotations

import os
import tempfile

import pytest

from tests.support.rays import VERSIONS, RayEnv, find_ray

# A whole test run stays below 50 minutes on two cores: on the older Ray these run with the slow
# tests only. What they show does not depend on the release, or is shown there in another way.
_SLOW_ON_OLDER_RAY = (
    "test_gc_live.py::test_knob_of_upstream_brings_back_stock_in_drivers_and_workers[ray-2.48.0-variable",
    "test_harness.py::test_a_program_that_hangs_is_killed_with_its_children",
    "test_harness.py::test_two_raylets_have_addresses_of_their_own",
    "test_overlay_refusal.py",
    "test_refcount_conformance.py",
    "test_logs_live.py::test_whole_logs_are_answered_as_by_stock_ray",
    "test_refs_why_live.py",
    "test_relay_parts_live.py::test_nothing_is_lost_or_changed_between_grpcio_and_grpcio",
    "test_serve_router_live.py::test_requests_for_one_model_do_not_overtake_each_other",
    "test_serve_router_live.py::test_wait_for_a_slot_is_bounded_however_models_are_mixed",
    "test_spill_live.py::test_data_of_every_size_is_identical_and_files_stay_below_their_bound[ray-2.48.0-env",
    "test_spill_live.py::test_killed_io_workers_lose_nothing_and_leave_nothing",
    "test_spill_live.py::test_pulls_by_another_node_racing_frees_never_read_zeros",
    "test_wheel_live.py::test_made_from_the_file_it_is_the_same_to_the_byte",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests above as slow on all but the newest Ray."""
    for item in items:
        older = any(version in item.nodeid for version in VERSIONS[:-1])
        if older and any(name in item.nodeid for name in _SLOW_ON_OLDER_RAY):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def room_on_the_disk() -> None:
    """Fail with the reason where Ray would refuse to spill, which else looks like a hundred faults of ours.

    By default Ray creates no more objects outside of memory when 95 % of a disk is used, and counts
    what is reserved for others as used.
    """
    directory = tempfile.gettempdir()
    disk = os.statvfs(directory)
    used = 1 - disk.f_bavail / disk.f_blocks
    if used > 0.94:
        left_gb = disk.f_bavail * disk.f_frsize / 1e9
        pytest.fail(
            f"{used:.0%} of the disk of {directory} is used or reserved, {left_gb:.0f} GB are left, "
            "and Ray spills nothing beyond 95 %: make room there"
        )


@pytest.fixture(scope="session", params=VERSIONS, ids=[f"ray-{version}" for version in VERSIONS])
def ray_env(request: pytest.FixtureRequest) -> RayEnv:
    """An environment with an official Ray and Mantaray; a test runs once with each of VERSIONS."""
    return find_ray(request.param)
