"""`mantaray.refs.finalize` on real clusters, with workers and nodes that are really killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.rays import Finished, RayEnv

PROGRAMS = Path(__file__).parent / "programs"
_SEEN: dict[str, Finished] = {}


@pytest.fixture
def seen(ray_env: RayEnv) -> Any:
    """What one program saw on one cluster; it runs once for each Ray."""
    if ray_env.version not in _SEEN:
        _SEEN[ray_env.version] = ray_env.run(PROGRAMS / "refs_finalize.py")
    return _SEEN[ray_env.version].told


def _all_true(value: Any) -> bool:
    return all(map(_all_true, value.values())) if isinstance(value, dict) else value is True


def test_object_dropped_here_is_told_once_with_its_arguments(seen: Any) -> None:
    assert seen["drop_here"].pop("thread") == "mantaray-finalizers"
    assert _all_true(seen["drop_here"]), seen["drop_here"]


@pytest.mark.parametrize(
    "check",
    [
        "borrower_lets_go",
        "borrower_killed",
        "owner_killed",
        "actor_owns",
        "task_owns",
        "async_actor",
        "exceptions",
        "lineage",
        "pending",
        "weakref_manners",
        "callback_uses_ray",
        "freed",
        "not_pinned",
        "many",
    ],
)
def test_finalizer_is_neither_early_nor_lost_nor_doubled(seen: Any, check: str) -> None:
    assert _all_true(seen[check]), seen[check]


def test_what_is_no_object_is_refused_with_a_hint(seen: Any) -> None:
    said = seen["refusals"]["said"]
    assert seen["refusals"]["items"] is True
    assert "references that the generator yields" in said["generator"]
    assert "an actor is no object" in said["actor"]
    assert said["no ref"] == "finalize takes an ObjectRef, not int"
    assert said["no callback"] == "the callback 5 cannot be called"
    assert "call_soon_threadsafe" in said["coroutine"]


def test_actor_that_ends_calls_what_is_left_at_exit(seen: Any) -> None:
    assert seen["actor_exit"] is True


def test_program_that_ends_calls_what_is_left_newest_first(seen: Any, ray_env: RayEnv) -> None:
    _check_exit(seen["exit"], _SEEN[ray_env.version].stderr)


def test_object_dropped_before_the_end_is_called_though_nobody_has_told_yet(
    ray_env: RayEnv,
) -> None:
    # Neither does Ray call back in time, nor does anybody look before the end, nor does the patch help.
    env = {"MANTARAY_REFS_WATCH_INTERVAL_MS": "60000", "MANTARAY_PATCHES": "-refs"}
    done = ray_env.run(PROGRAMS / "refs_exit.py", ["held back"], env)
    _check_exit(done.told, done.stderr)


def _check_exit(said: list[str], stderr: str) -> None:
    assert sorted(said) == ["gone", "second", "third"]
    assert said.index("third") < said.index("second")
    assert "ValueError: at exit" in stderr


@pytest.mark.slow
def test_shutdown_under_a_look_calls_everything_and_kills_nothing(ray_env: RayEnv) -> None:
    seen = ray_env.run_program(
        PROGRAMS / "refs_exit.py", ["shutdown"], {"MANTARAY_REFS_WATCH_INTERVAL_MS": "1"}
    )
    assert seen[0] == "not at exit"
    assert seen[1] == {"in_order": True, "quiet": True, "again": True}


@pytest.mark.slow
def test_objects_lost_with_their_node_are_told_when_let_go(ray_env: RayEnv) -> None:
    # So that the death of a node is noticed soon.
    health = {
        "health_check_initial_delay_ms": 1_000,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 4,
    }
    with Cluster(ray_env, system_config=health) as cluster:
        raylets: list[int] = []
        for name in ("first", "second"):
            before = set(cluster.pids("raylet"))
            cluster.add_node(resources={name: 1})
            raylets += set(cluster.pids("raylet")) - before
        seen = cluster.run_program(PROGRAMS / "refs_lost.py", [str(pid) for pid in raylets])
    assert _all_true(seen), seen


def test_bad_interval_is_one_sentence_where_the_finalizer_is_made(seen: Any) -> None:
    assert seen["bad_interval"].startswith(
        "MANTARAY_REFS_WATCH_INTERVAL_MS is set to 'soon'; allowed: "
    )
