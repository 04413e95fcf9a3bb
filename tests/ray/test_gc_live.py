"""Garbage collection on both Rays: what hides in cycles is released, pauses are short, nothing breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import RayEnv, assert_start_refused, short_directory

PROGRAMS = Path(__file__).with_name("programs")
VARIABLE = "RAY_start_python_gc_manager_thread"


@pytest.fixture(scope="module")
def seen(ray_env: RayEnv) -> Any:
    """What one cluster has shown."""
    with short_directory() as root:
        variables = {"MANTARAY_GC_IDLE_DELAY_MS": "500"}
        return ray_env.run_program(PROGRAMS / "gc_live.py", [root], variables, timeout_s=600)


def test_process_has_a_thread_for_it_only_if_it_was_asked(seen: Any) -> None:
    for process in ("a worker", "the driver"):
        names, triggers = seen[f"threads of {process}"]
        assert "MainThread" in names
        assert ("mantaray-gc" in names) == (triggers > 0)


def test_driver_releases_references_and_arrays_in_cycles(seen: Any) -> None:
    for kind in ("ref", "array"):
        assert seen[f"driver {kind}"] == {"released": True, "held": 0}


def test_buffer_counts_as_long_as_a_view_lies_in_it(seen: Any) -> None:
    assert seen["buffers"] == [1, False, 1, 0]


def test_task_releases_references_and_arrays_in_cycles(seen: Any) -> None:
    assert seen["task"] == [{"released": True, "held": 0}] * 2


def test_garbage_hidden_in_an_old_heap_is_released(seen: Any) -> None:
    for each in seen["task old"]:
        assert each["before"] >= 10
        assert each["all_released"], each
        assert each["full"] + each["searches"] >= 1


def test_busy_actor_with_a_large_heap_is_never_collected_in_full(seen: Any) -> None:
    assert seen["busy"]["young"] >= 4
    assert seen["busy"]["full"] == 0
    assert seen["busy"]["released"] >= 9


def test_garbage_that_young_collections_froze_is_released_without_a_full_collection(
    seen: Any,
) -> None:
    idle = seen["busy then idle"]
    assert idle["full"] == 0
    assert idle["searches"] >= 1
    assert seen["busy"]["held"] - idle["held"] >= 5


def test_actor_handle_in_a_cycle_is_released_by_a_process_that_holds_no_object(seen: Any) -> None:
    assert seen["holds nothing"]["held"] == 0
    assert seen["holds nothing"]["actors"] == 3
    assert seen["holds nothing"]["full"] == 0


def test_threaded_and_asynchronous_actors_release_what_is_in_cycles(seen: Any) -> None:
    for kind in ("threaded", "async"):
        assert seen[kind]["held"] == 0
        assert seen[kind]["released"] > 0


def test_waiting_coroutine_of_a_call_is_not_taken_for_idle(seen: Any) -> None:
    assert seen["async idle during a call"] is False


def test_disabled_collector_answers_ray_as_on_stock(seen: Any) -> None:
    assert seen["disabled"]["held"] == 1
    assert seen["enabled again"]["held"] == 1


def test_fork_leaves_parent_and_child_working(seen: Any) -> None:
    assert seen["fork"] == [0] * 5
    assert seen["after the fork"]["held"] == 1


def test_collector_that_raises_is_logged_and_goes_on(seen: Any) -> None:
    assert seen["raising"]["failures"] > 0
    assert seen["raising logged"]
    assert seen["after raising"]["held"] == 1


def test_what_the_user_froze_stays_frozen(seen: Any) -> None:
    assert seen["frozen by the user"] > 0
    assert seen["after the user froze"]["freezes"] is False
    # Some of it has died by count of references; unfreezing would leave none.
    assert seen["still frozen"] > 0.9 * seen["frozen by the user"]


def test_metrics_have_ten_series_a_node_however_many_processes_there_are(seen: Any) -> None:
    assert seen["processes that told"] > 1
    values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in seen["series"]}
    assert len(seen["series"]) == 10, seen["series"]
    assert sum(line.startswith("ray_mantaray_gc_collections{") for line in seen["series"]) == 3
    assert values["ray_mantaray_gc_triggers"] > 0
    assert values["ray_mantaray_gc_objects_freed"] > 0


def test_figures_are_shown_by_the_command(seen: Any) -> None:
    assert any("Base" in title for title in seen["stat"]), seen["stat"]
    assert not seen["figures lost"]


def test_shutdown_joins_the_thread_and_gives_the_heap_back(seen: Any) -> None:
    assert seen["thread while connected"] == 1
    assert seen["threads at the end"] == 0
    assert seen["frozen at the end"] == 0


def test_taken_back_collections_are_rays_own_until_it_is_attached_again(seen: Any) -> None:
    assert seen["thread uninstalled"] == seen["frozen uninstalled"] == 0
    assert seen["uninstalled"]
    assert seen["installed again"]
    assert seen["triggers installed again"] > 0


INLINE = """
import json, sys, threading, time
import ray
from ray._private.internal_api import global_gc
config = json.loads(sys.argv[2]) | {"local_gc_min_interval_s": 0, "global_gc_min_interval_s": 0}
ray.init(address="local", num_cpus=1, include_dashboard=False, _temp_dir=sys.argv[1],
         object_store_memory=80_000_000, _system_config=config)

def waste_and_wait():
    worker = ray._private.worker.global_worker
    keep = ray.put(0)
    cycle = [ray.put(1)]
    cycle.append(cycle)
    del cycle
    deadline = time.monotonic() + 120
    while worker.core_worker.get_memory_store_size() > 1 and time.monotonic() < deadline:
        global_gc()
        time.sleep(0.2)
    left = [t.name for t in threading.enumerate()]
    return worker.core_worker.get_memory_store_size(), "mantaray-gc" in left

told = [waste_and_wait(), ray.get(ray.remote(waste_and_wait).remote())]
ray.shutdown()
print(json.dumps(told))
"""


@pytest.mark.parametrize(
    ("variables", "config"),
    [({VARIABLE: "0"}, "{}"), ({}, '{"start_python_gc_manager_thread": false}')],
    ids=["variable", "system config"],
)
def test_knob_of_upstream_brings_back_stock_in_drivers_and_workers(
    ray_env: RayEnv, variables: dict[str, str], config: str
) -> None:
    with short_directory() as root:
        told = ray_env.run_program(INLINE, [root, config], variables)
    assert told == [[1, False]] * 2


BAD_SETTINGS = {"MANTARAY_GC_TIME_SHARE": "2", VARIABLE: "perhaps"}
BAD_STARTS = """
import json, os, sys, ray
said = []
for name, value in json.loads(sys.argv[1]).items():
    os.environ[name] = value
    try:
        ray.init(address="local", include_dashboard=False)
    except ValueError as error:
        said.append(str(error))
    del os.environ[name]
print(json.dumps(said))
"""


def test_bad_setting_is_one_sentence_where_a_driver_starts(ray_env: RayEnv) -> None:
    said = ray_env.run_program(BAD_STARTS, [json.dumps(BAD_SETTINGS)])
    for sentence, (name, value) in zip(said, BAD_SETTINGS.items(), strict=True):
        assert f"{name} is set to '{value}'; allowed:" in sentence


def test_bad_setting_is_one_sentence_where_a_node_starts(ray_env: RayEnv) -> None:
    words = "MANTARAY_GC_TIME_SHARE is set to '2'; allowed:"
    assert_start_refused(ray_env, words, MANTARAY_GC_TIME_SHARE="2")
