"""Serve on both Rays with the router patch: nothing is lost, nothing spins, features stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, free_ports
from tests.support.rays import RayEnv, short_directory

PROGRAMS = Path(__file__).with_name("programs")


@pytest.fixture(scope="module")
def seen(ray_env: RayEnv) -> Any:
    """What one cluster has shown."""
    return ray_env.run_program(PROGRAMS / "serve_router.py", [str(free_ports(1)[0])])


def test_queued_requests_are_answered_in_order(seen: Any) -> None:
    assert seen["answers"] == list(range(20))
    assert seen["order"] == list(range(20))


@pytest.fixture(scope="module")
def simulated(ray_env: RayEnv) -> Any:
    """What Ray's router did with a replica whose answers come late and in any order; simulated time."""
    return ray_env.run_program(PROGRAMS / "serve_router_order.py")


def test_request_that_was_turned_away_is_not_overtaken_while_the_answer_is_on_its_way(
    simulated: Any,
) -> None:
    bursts = simulated["short"] + simulated["usual"] + simulated["slow machine"]
    assert [burst["served"] for burst in bursts] == [list(range(40))] * 60


def test_waiting_for_late_answers_costs_next_to_nothing(simulated: Any) -> None:
    # Simulated seconds: the speed of the machine does not matter.
    assert sum(burst["over_ideal"] for burst in simulated["usual"]) / 20 < 1.05
    assert sum(burst["over_ideal"] for burst in simulated["slow machine"]) / 20 < 2.8


def test_latecomer_does_not_overtake_those_who_waited_for_the_router(simulated: Any) -> None:
    assert simulated["latecomer"] == list(range(7))


@pytest.fixture(scope="module")
def failures(ray_env: RayEnv) -> Any:
    """What a router did while one part of Mantaray after the other failed; simulated time."""
    return ray_env.run_program(PROGRAMS / "serve_router_failures.py")


def test_failure_in_any_part_of_mantaray_leaves_no_request_unanswered(failures: Any) -> None:
    assert len(failures["served"]) > 50
    assert {
        what: seen for what, seen in failures["served"].items() if seen != list(range(19))
    } == {}


def test_failure_is_logged_once(failures: Any) -> None:
    assert failures["logged at most"] == 1
    assert failures["logged without a failure"] == []
    assert failures["whole"] == list(range(19))


def test_request_does_not_hang_on_a_replica_of_which_little_is_known(failures: Any) -> None:
    assert failures["bare"] == [0, 1, 2]


@pytest.fixture(scope="module")
def gone(ray_env: RayEnv) -> Any:
    """What became of requests when others, or replicas, went away; simulated time."""
    return ray_env.run_program(PROGRAMS / "serve_router_gone.py")


@pytest.mark.parametrize("router", ["Unordered", "InOrder"])
def test_requests_are_not_abandoned_when_replicas_are_taken_away(gone: Any, router: str) -> None:
    assert gone[f"replicas go, {router}"] == 30


@pytest.mark.parametrize("router", ["Unordered", "InOrder"])
def test_requests_are_not_abandoned_when_others_are_cancelled(gone: Any, router: str) -> None:
    assert gone[f"requests go, {router}"] == 10


def test_request_for_a_model_of_a_dead_replica_is_answered_by_another_one(gone: Any) -> None:
    assert gone["replica dies"] == 30


def test_reserved_slots_that_are_given_up_do_not_count_as_running(gone: Any) -> None:
    # Ray reserves slots since 2.56.
    assert gone["reservations"] in (None, {"left": 0, "answered": 1})


def test_streams_http_and_batches_lose_nothing(seen: Any) -> None:
    assert seen["streams"] == [list(range(5))] * 3
    assert seen["http"] == ["http"] * 12
    assert seen["batched"] == [number * 2 for number in range(12)]


def test_burst_for_several_models_does_not_load_them_again_and_again(seen: Any) -> None:
    (cold_right, _), (right, loads) = seen["models"]
    assert cold_right
    assert right
    # Of 24 requests; stock Ray loads a model for every second one.
    assert loads <= 8


def test_all_of_four_replicas_are_used(seen: Any) -> None:
    assert seen["four"] == 4


def test_router_of_a_user_decides_alone(seen: Any) -> None:
    assert seen["custom"] == 1


def test_cancelled_requests_do_not_take_a_slot_with_them(seen: Any) -> None:
    assert seen["cancelled"]


def test_second_router_in_another_process_is_served(seen: Any) -> None:
    assert seen["two_routers"] == [list(range(20)), list(range(3000, 3020))]


def test_router_does_not_keep_a_shared_replica_to_itself(seen: Any) -> None:
    first_half = seen["two_routers_order"][:20]
    elsewhere = sum(number >= 3000 for number in first_half)
    # Each gets its turn; without that, one of them got everything. On a busy machine the bursts of two
    # processes do not begin in the same moment.
    assert 3 <= elsewhere <= 17


def test_requests_wait_for_the_first_replica(seen: Any) -> None:
    assert seen["from_zero"] == 10


def test_router_does_not_spin_while_nothing_is_free(seen: Any) -> None:
    idle = seen["idle"]
    assert idle["looks"] <= 12
    assert idle["gauge_and_waits"][0] == idle["gauge_and_waits"][1]
    assert idle["gauge_at_the_end"] == 0
    assert idle["done"] == list(range(10))


def test_killed_replica_takes_only_the_request_it_had(seen: Any) -> None:
    assert seen["killed"]["failed"] <= 2
    assert seen["killed"]["answered"] + seen["killed"]["failed"] == 20


@pytest.fixture(scope="module")
def policies(ray_env: RayEnv) -> Any:
    """What a cluster of two nodes has shown about the choice between replicas."""
    variables = {"MANTARAY_SERVE_BACKOFF_JITTER": "0.5"}
    with Cluster(ray_env, num_cpus=4, variables=variables) as cluster:
        cluster.add_node()
        seen = cluster.run_program(PROGRAMS / "serve_router_policies.py")
    print(seen)
    return seen


@pytest.mark.slow
def test_near_replica_is_preferred_and_the_other_one_used_when_it_is_full(policies: Any) -> None:
    assert policies["locality"]["replicas"] == 2
    assert policies["locality"]["one by one"] == 20
    assert policies["locality"]["at once"][0] >= 3


@pytest.mark.slow
def test_models_are_served_where_they_are_loaded(policies: Any) -> None:
    assert policies["models"]["places"] == [1, 1, 1, 1]
    assert policies["models"]["right"]
    assert policies["models"]["replicas"] == 2


@pytest.mark.slow
def test_backoff_is_jittered_within_its_bounds(policies: Any) -> None:
    jittered = policies["jittered"]
    assert len(set(jittered)) > 20
    assert 0.025 <= min(jittered) <= max(jittered) <= 0.05


@pytest.mark.slow
def test_backoff_of_a_deployment_comes_first(policies: Any, ray_env: RayEnv) -> None:
    if ray_env.version == "2.48.0":
        assert "configured" not in policies
        return
    # 0.2 * 3 is cut to 0.5, of which up to a half is left out.
    assert 0.25 <= min(policies["configured"]) <= max(policies["configured"]) <= 0.5


@pytest.mark.slow
def test_other_routers_of_ray_answer_everything(policies: Any, ray_env: RayEnv) -> None:
    others = policies["others"]
    old = ray_env.version == "2.48.0"
    new = {"prefix", "round robin", "consistent hash", "capacity queue"}
    assert set(others) == ({"prefix on 2.48"} if old else new)
    for seen in others.values():
        assert seen["answers"] == 30
        assert len(seen["replicas"]) == 3


STARTS = """
import json, os
said = []
try:
    from ray import serve
    from mantaray.serve.backoff import Backoff
    said.append(Backoff.read().multiplier)
    os.environ["MANTARAY_SERVE_BACKOFF_JITTER"] = "2"
    serve.start()
except ValueError as error:
    said.append(str(error))
print(json.dumps(said))
"""
MULTIPLIER = "RAY_SERVE_ROUTER_RETRY_BACKOFF_MULTIPLIER"


def test_multiplier_need_not_be_whole_and_bad_jitter_is_one_sentence_where_serve_is_started(
    ray_env: RayEnv,
) -> None:
    multiplier, sentence = ray_env.run_program(STARTS, env={MULTIPLIER: "1.5"})
    assert multiplier == 1.5
    assert sentence.startswith("MANTARAY_SERVE_BACKOFF_JITTER is set to '2'; allowed: ")


def test_bad_multiplier_is_one_sentence_where_serve_is_imported_or_started(
    ray_env: RayEnv,
) -> None:
    (*_, sentence) = ray_env.run_program(STARTS, env={MULTIPLIER: "-1.5"})
    assert sentence.startswith(f"{MULTIPLIER} is set to '-1.5'; allowed: ")


@pytest.fixture(scope="module")
def shared(ray_env: RayEnv) -> Any:
    """How long requests for models wait that two replicas share; 50 callers, simulated time."""
    return ray_env.run_program(PROGRAMS / "serve_router_models.py")


def test_requests_for_one_model_do_not_overtake_each_other_again_and_again(shared: Any) -> None:
    # 50 callers share 8 slots for 0.1 s each, so 0.63 s is even.
    for name, model in (("no model", ""), ("one", "a")):
        waits = shared[name]["waits"][model]
        assert waits["longest"] < 1.5 * waits["median"]
    # The second replica has loaded what the first one cannot carry.
    assert shared["one"]["loads"] == 2
    assert shared["one"]["per second"] > 0.9 * shared["no model"]["per second"]


@pytest.mark.parametrize("mix", ["two", "two, skewed", "four", "four, skewed"])
def test_wait_for_a_slot_is_bounded_however_models_are_mixed(shared: Any, mix: str) -> None:
    # The requests ahead, 0.63 s, and the preference, 2 s at most.
    assert max(each["longest"] for each in shared[mix]["waits"].values()) < 2.7
    assert shared[mix]["per second"] > 0.9 * shared["no model"]["per second"]
    assert shared[mix]["loads"] <= 8


@pytest.fixture(scope="module")
def pickled(ray_env: RayEnv) -> Any:
    """What a process with Mantaray pickles of Serve, and what it makes of a pickle of Mantaray 0.1."""
    with short_directory() as directory:
        program, file = PROGRAMS / "serve_router_pickles.py", directory / "pickle"
        pickles = ray_env.run_program(program, [file])["pickles"]
        return {"pickles": pickles, "served with 0.1": ray_env.run_program(program, [file])}


def test_deployment_of_mantaray_01_is_served_by_later_ones(pickled: Any) -> None:
    assert pickled["served with 0.1"] == list(range(20))


def test_router_of_a_patched_process_serves_where_mantaray_cannot_be_imported(
    ray_env: RayEnv,
) -> None:
    with short_directory() as directory:
        program, file = PROGRAMS / "serve_router_elsewhere.py", directory / "pickle"
        assert ray_env.run_program(program, ["dump", file])["patched"]
        seen = ray_env.run_program(program, ["load", file])
    assert seen == {"served": list(range(10)), "patched": False}


def test_nothing_that_serve_pickles_needs_mantaray(pickled: Any) -> None:
    pickles = pickled["pickles"]
    assert set(pickles) == {"default router", "user's router", "replica's actor", "metadata"}
    assert [name for name, seen in pickles.items() if seen["needs"]] == []
    # Not even as a text that is looked up when it is used.
    assert [name for name, seen in pickles.items() if seen["names"]] == []
