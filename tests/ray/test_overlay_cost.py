"""What Mantaray costs a process that does nothing with it: no thread, little memory, few modules."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.rays import RayEnv

IMPORT = """
import ray
import json, os, sys, threading
rollup = dict(line.split()[:2] for line in open("/proc/self/smaps_rollup") if line[:1] == "A")
print(json.dumps({
    "threads": [thread.name for thread in threading.enumerate()],
    "native threads": len(os.listdir("/proc/self/task")),
    "kilobytes": int(rollup["Anonymous:"]),
    "modules": [name for name in sys.modules],
}))
"""
MOST_MEGABYTES = 3.0
# What few processes need: the relay's, what only helpers, the agent or a command uses, and what is for
# processes that connect to a cluster. The last ones are libraries that take longer than all the rest.
NOT_LOADED = (
    "mantaray.cli",
    "mantaray.dashboard.endpoints",
    "mantaray.gc.node",
    "mantaray.gc.service",
    "mantaray.logs.reading",
    "mantaray.refs.finalizers",
    "mantaray.refs.listener",
    "mantaray.sim",
    "mantaray.states.cluster",
    "mantaray.syncer.relay",
    "mantaray.syncer.status",
    "mantaray.wheel.build",
    "packaging.specifiers",
    "wrapt",
)


@pytest.fixture(scope="module")
def stock(ray_env: RayEnv) -> Any:
    """What `import ray` leaves in a process without Mantaray."""
    return ray_env.run_program(IMPORT, env={"MANTARAY_DISABLE": "1"})


@pytest.fixture(scope="module")
def ours(ray_env: RayEnv) -> Any:
    """The same with Mantaray."""
    return ray_env.run_program(IMPORT)


def test_process_that_is_asked_nothing_has_no_thread_of_mantaray(stock: Any, ours: Any) -> None:
    assert ours["threads"] == stock["threads"]
    assert ours["native threads"] == stock["native threads"]


def test_import_of_ray_takes_less_than_three_megabytes_more(stock: Any, ours: Any) -> None:
    assert (ours["kilobytes"] - stock["kilobytes"]) / 1_024 < MOST_MEGABYTES


def test_process_does_not_load_what_only_others_need(stock: Any, ours: Any) -> None:
    assert "mantaray.overlay" in ours["modules"]
    added = set(ours["modules"]) - set(stock["modules"])
    assert [name for name in added if name.startswith(NOT_LOADED)] == []
