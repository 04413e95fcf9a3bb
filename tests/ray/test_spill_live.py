"""Spilling in live clusters of both Rays: disk use, data, kills, damage, leftovers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.disks import small_ext4, small_tmpfs
from tests.support.groups import memory_group, oom_kills
from tests.support.rays import RayEnv, assert_start_refused, short_directory

PROGRAMS = Path(__file__).with_name("programs")


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for one cluster."""
    with short_directory() as path:
        yield path


def test_disk_follows_live_bytes_while_one_object_in_twenty_lives(
    ray_env: RayEnv, root: Path
) -> None:
    # So much longer than the test takes that a punch that waits for it fails the test.
    grace = {"MANTARAY_SPILL_PUNCH_DELAY_MS": "60000"}
    seen = ray_env.run_program(PROGRAMS / "spill_retention.py", [root], grace)
    assert max(seen["took_s"]) < 60
    assert seen["peak_bytes"] > 400_000_000
    assert seen["directories"] >= 1
    assert seen["one_in_twenty"] <= 1.05
    assert seen["after_random_frees"] <= 1.05
    assert seen["intact"]
    assert seen["in_the_end"] == 0
    assert seen["files_in_the_end"] == 0


@pytest.mark.parametrize("way", ["environment", "system_config"])
def test_data_of_every_size_is_identical_and_files_stay_below_their_bound(
    ray_env: RayEnv, root: Path, way: str
) -> None:
    bound = {"max_spilling_file_size_bytes": 20_000_000, "min_spilling_size": 10_000_000}
    variables = {f"RAY_{name}": str(value) for name, value in bound.items()}
    seen = ray_env.run_program(
        PROGRAMS / "spill_sizes.py",
        [root, "60000000", json.dumps(bound if way == "system_config" else {})],
        variables if way == "environment" else {},
    )
    assert seen["wrong"] == []
    assert seen["empty"]
    assert seen["segments_beyond_20_mb"] == []
    assert seen["files"] > 5
    assert seen["workers"] > 1


@pytest.mark.slow
@pytest.mark.needs_root
def test_objects_of_500_mb_are_identical_on_several_disks(ray_env: RayEnv, root: Path) -> None:
    with small_ext4(1_500_000_000) as one, small_ext4(1_500_000_000) as other:
        seen = ray_env.run_program(
            PROGRAMS / "spill_sizes.py", [root, "500000000", "{}", one, other], timeout_s=400
        )
    print(seen)
    assert seen["wrong"] == []
    assert seen["empty"]
    assert seen["workers"] > 1
    assert seen["directories"] == 2
    assert seen["spilled_bytes"] > 1_000_000_000


@pytest.mark.needs_root
def test_full_and_vanished_disks_are_passed_over_and_the_reserve_stays(
    ray_env: RayEnv, root: Path
) -> None:
    reserve_bytes = 20_000_000
    with small_tmpfs(150_000_000) as small, small_tmpfs(300_000_000) as large:
        seen = ray_env.run_program(
            PROGRAMS / "spill_full_disks.py",
            [root, small, large, str(reserve_bytes)],
            {"MANTARAY_SPILL_RESERVE_BYTES": str(reserve_bytes)},
        )
    assert seen["first_full"]["wrong"] == []
    assert seen["first_full"]["in_large"] > 100_000_000
    assert seen["both"]["wrong"] == []
    assert seen["both"]["in_small"] > 50_000_000
    assert seen["both"]["in_large"] > 200_000_000
    assert seen["partial"] == []
    assert seen["reserve_eaten"] == []
    assert seen["emptied"]
    for phase in ("vanished", "restarted"):
        assert seen[phase]["wrong"] == []
        assert seen[phase]["in_small"] > 50_000_000
    assert seen["behind_the_vanished"] == []


@pytest.mark.needs_root
def test_no_room_anywhere_is_one_error_and_no_partial_file(ray_env: RayEnv, root: Path) -> None:
    size_bytes, reserve_bytes = 150_000_000, 20_000_000
    with small_tmpfs(size_bytes) as directory:
        seen = ray_env.run_program(
            PROGRAMS / "spill_no_room.py",
            [root, directory],
            {"MANTARAY_SPILL_RESERVE_BYTES": str(reserve_bytes)},
        )
    assert seen["error"] in ("OutOfDiskError", "ObjectStoreFullError")
    assert seen["took_s"] < 60
    assert seen["partial"] == []
    # Ray's own fallback allocation does take from the reserve; spilling does not.
    assert 50_000_000 < seen["ours"] <= size_bytes - reserve_bytes
    assert seen["tracebacks"] == []
    for lines in seen["told"]:
        assert len(lines) <= 1 + seen["told_within_s"] // 5
        for word in ("an object of 50", str(directory), "bytes free", "usable above the reserve"):
            assert word in lines[0]
    assert seen["told"]
    assert seen["gave_back"]
    assert seen["wrong"] == []
    assert seen["works_again"]
    assert seen["emptied"]


def test_pulls_by_another_node_racing_frees_never_read_zeros(ray_env: RayEnv) -> None:
    # Zeros would show in what is read, or in the death of the raylet that reads a header of zeros. The
    # cap also shows that what the head was told reaches the other node. Small chunks: an object
    # is read in many steps, and freed between two of them.
    config = {
        "max_spilling_file_size_bytes": 60_000_000,
        "min_spilling_size": 50_000_000,
        "object_manager_default_chunk_size": 500_000,
    }
    # Without a grace time, so only what the IO worker sees of the readers keeps holes from them.
    grace = {"MANTARAY_SPILL_PUNCH_DELAY_MS": "0"}
    with Cluster(ray_env, store_bytes=80_000_000, system_config=config, variables=grace) as cluster:
        cluster.add_node(resources={"first": 1})
        cluster.add_node(resources={"second": 1}, store_bytes=500_000_000)
        seen = cluster.run_program(
            PROGRAMS / "spill_pull_race.py", [cluster.spill_directories[0], "3", "6000000"]
        )
    print(seen)
    assert seen["counts"] == {"kept: same": 36, "last: same": 36, "left: left": 36}
    assert 12_000_000 < seen["largest_segment"] <= 60_000_000
    assert seen["emptied"], seen["left_bytes"]


def test_killed_io_workers_lose_nothing_and_leave_nothing(ray_env: RayEnv, root: Path) -> None:
    seen = ray_env.run_program(PROGRAMS / "spill_killed_workers.py", [root], timeout_s=800)
    assert seen["kills"] >= 3
    assert seen["wrong"] == []
    assert seen["swept"]


def test_flipped_bit_is_rebuilt_and_spilled_again_or_an_error_never_data(
    ray_env: RayEnv, root: Path
) -> None:
    # So that one spill takes whatever is in the store. Of several small ones each would take the objects
    # that come first in the raylet's table, and an object that comes late there would never leave memory.
    whole_store = {"RAY_min_spilling_size": "104857600"}
    program = PROGRAMS / "spill_damage.py"
    seen = ray_env.run_program(program, [root], whole_store, timeout_s=800)
    for size in ("small", "large"):
        assert seen[size]["rebuilt"] == ["value", 7, 7, True]
        assert seen[size]["put"][0] == "error"
        assert seen[size]["put"][2], seen[size]["put"]
        assert seen[size]["healthy"] == ["value", 9, 9, True]
        assert seen[size]["put_back"]


@pytest.mark.slow
def test_a_node_chooses_the_spilling_knobs_that_the_user_did_not_set(
    ray_env: RayEnv, root: Path
) -> None:
    seen = ray_env.run_program(
        PROGRAMS / "spill_knobs.py",
        [root, "{}"],
        {"RAY_max_io_workers": "3"},
    )
    assert seen["environ"]["max_io_workers"] == "3"
    # The disk of the test is ample for a store of 160 MB.
    batch_bytes = 160_000_000 // 8
    assert seen["chosen"] == {
        "oom_grace_period_s": 0,
        "min_spilling_size": batch_bytes // 2,
        "max_spilling_file_size_bytes": batch_bytes,
    }
    for name, value in seen["chosen"].items():
        assert seen["environ"][name] == str(value)
    for line in seen["said"]:
        assert "max_io_workers=3" in line
        assert f"min_spilling_size={batch_bytes // 2}" in line
    assert seen["left_behind"] == []
    assert seen["spilled_bytes"] > 200_000_000
    assert seen["wrong"] == []


def test_a_driver_reads_spilled_objects_from_their_files_and_leaves_the_rest_to_ray(
    ray_env: RayEnv, root: Path
) -> None:
    seen = ray_env.run_program(
        PROGRAMS / "spill_direct.py", [root], {"MANTARAY_SPILL_GET_BYTES": "100000000"}
    )
    print(seen)
    assert all(is_right for is_right, _ in seen["special"].values()), seen["special"]
    # The driver looks twice a second whether there is anything to read, and whether memory is free.
    assert seen["special"]["nested"][1]
    assert seen["flags"] == [True, False, 0]
    assert seen["wrong"] == []
    assert seen["direct"] > 100
    assert seen["restored"] < 10
    assert seen["left_live"] == 0
    assert seen["list"]
    assert seen["borrower"]
    assert seen["without_us"]
    assert seen["damaged"] == "lost"
    assert seen["emptied"]
    assert seen["outlives"]


@pytest.mark.slow
@pytest.mark.needs_root
def test_5_gb_and_a_pull_in_a_group_of_1500_mb_end_no_process(ray_env: RayEnv, root: Path) -> None:
    with memory_group(1_500_000_000) as group:
        seen = ray_env.run_program(PROGRAMS / "spill_in_group.py", [root, group], timeout_s=800)
        kills = oom_kills(group)
    print(seen, kills)
    assert kills == 0
    assert seen["wrong"] == []
    assert seen["count"] == 5_000
    assert seen["spilled_bytes"] > 4_500_000_000


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.parametrize("grace_period_s", ["2", None], ids=["rays_grace_period", "ours"])
def test_a_shuffle_stays_right_while_a_worker_dies_an_object_rots_and_the_disk_is_full(
    ray_env: RayEnv, root: Path, grace_period_s: str | None
) -> None:
    users = {"RAY_oom_grace_period_s": grace_period_s} if grace_period_s else {}
    with small_tmpfs(1_500_000_000) as directory:
        seen = ray_env.run_program(
            PROGRAMS / "spill_shuffle.py",
            [root, directory],
            {"MANTARAY_SPILL_RESERVE_BYTES": "200000000", **users},
            timeout_s=800,
        )
    print(seen)
    # Without a grace period, retries may be used up before the disk has room again (docs/spilling.md).
    may_fail = grace_period_s is None
    assert seen["right"] or (may_fail and seen["out_of_disk"])
    assert seen["torn"] == []
    assert seen["killed"] == 1
    assert seen["damaged"] >= 1
    assert seen["filled"] == 1
    # What is left is what Ray 2.60 forgets by itself (docs/spilling.md, "Known limits").
    assert seen["emptied"] or ray_env.version != "2.48.0", seen["left_bytes"]
    assert seen["only_the_raylets"], (seen["left_bytes"], seen["left_in_raylet"])
    assert seen["left_of_single_runs"] == []


@pytest.mark.slow
def test_damaged_and_lost_objects_are_never_sent_to_another_node(
    ray_env: RayEnv, root: Path
) -> None:
    # So that one spill takes whatever is in the store; see the test of a flipped bit.
    whole_store = {"RAY_min_spilling_size": "104857600"}
    with Cluster(ray_env, store_bytes=80_000_000, variables=whole_store) as cluster:
        cluster.add_node(resources={"first": 1})
        cluster.add_node(resources={"second": 1})
        seen = cluster.run_program(
            PROGRAMS / "spill_pulled_damage.py", [cluster.spill_directories[0], root, "150"]
        )
    print(seen)
    # The bytes of stock Ray's reader are damaged ones, and a file that is gone lets it wait for ever.
    assert seen["outcomes"] == {
        "flipped_put": "lost",
        "flipped_result": "same",
        "removed_put": "lost",
        "removed_result": "same",
        "sound": "same",
    }
    assert seen["runs"] == {"flipped_result": 2, "removed_result": 2}
    assert seen["nodes_alive"] == 3


@pytest.mark.slow
@pytest.mark.needs_root
def test_a_worker_node_joins_and_spills_although_one_of_its_directories_is_read_only(
    ray_env: RayEnv, root: Path
) -> None:
    good = root / "good"
    with (
        small_tmpfs(100_000_000) as sealed,
        Cluster(ray_env, store_bytes=80_000_000, spill_directories=[good, sealed]) as cluster,
    ):
        subprocess.run(["mount", "-o", "remount,ro", sealed], check=True)
        cluster.add_node(resources={"second": 1})
        seen = cluster.run_program(PROGRAMS / "spill_on_second.py", [good])
    assert seen["wrong"] == []
    assert seen["spilled_bytes"] > 50_000_000


@pytest.mark.slow
def test_the_disk_follows_live_bytes_during_scattered_deletes_over_1000_segments(
    ray_env: RayEnv, root: Path
) -> None:
    seen = ray_env.run_program(PROGRAMS / "spill_scattered.py", [root])
    print(seen)
    assert seen["segments"] >= 900
    assert seen["looks"] >= 20
    assert seen["largest"] <= 1.1
    assert seen["follows"]
    assert seen["emptied"]


@pytest.mark.slow
def test_lost_and_damaged_objects_cost_one_run_and_are_spilled_again(
    ray_env: RayEnv, root: Path
) -> None:
    seen = ray_env.run_program(PROGRAMS / "spill_lost.py", [root], timeout_s=800)
    print(seen)
    assert seen["spilled"]
    assert seen["values"] == {"unlinked": True, "flipped": True, "large": True}
    assert seen["lost"] == {"unlinked": "lost", "flipped": "lost"}
    assert seen["again"] == [[True, True, True, True]] * 3
    assert seen["runs"] == {"unlinked": 2, "flipped": 2, "large": 2}
    assert seen["batch"] == [True, 2]
    assert seen["directory"] == [True, 2]
    assert seen["goes_on"] == [True, True, 1]
    assert 1 <= seen["stand_ins"] <= 8
    assert seen["all_dead"]


@pytest.mark.slow
@pytest.mark.needs_root
def test_bad_directories_at_the_start_are_passed_over_and_used_when_they_have_room(
    ray_env: RayEnv, root: Path
) -> None:
    with (
        small_tmpfs(200_000_000) as good,
        small_tmpfs(400_000_000) as full,
        small_tmpfs(10_000_000) as sealed,
    ):
        subprocess.run(["mount", "-o", "remount,ro", sealed], check=True)
        seen = ray_env.run_program(
            PROGRAMS / "spill_bad_directories.py",
            [root, good, full, sealed],
            {"RAY_local_fs_capacity_threshold": "1"},
        )
    assert seen["while_full"]["wrong"] == []
    assert seen["while_full"]["in_good"] > 50_000_000
    assert seen["with_room"]["wrong"] == []
    assert seen["with_room"]["in_full"] > 50_000_000
    assert seen["kept"]["wrong"] == []
    assert seen["kept"]["follows"], seen["kept"]


@pytest.mark.slow
def test_a_cap_beside_storage_of_another_type_does_not_keep_the_head_from_starting(
    ray_env: RayEnv, root: Path
) -> None:
    seen = ray_env.run_program(PROGRAMS / "spill_cap_other_storage.py", [root])
    assert seen == {"started": True}


@pytest.mark.slow
def test_the_metrics_of_a_node_tell_of_its_spilling_however_many_io_workers_it_has(
    ray_env: RayEnv, root: Path
) -> None:
    seen = ray_env.run_program(PROGRAMS / "spill_metrics.py", [root])
    print(seen)
    before, after = seen["before"], seen["after"]
    assert seen["right"]
    assert seen["full"], before
    assert seen["emptied"], after
    assert seen["workers"] >= 2
    assert before["spilled_objects"] > 200
    assert before["spilled_bytes"] >= before["live_bytes"] > 200_000_000
    assert before["disk_bytes"] == pytest.approx(seen["on_disk"], rel=0.2)
    assert before["restored_bytes"] >= 1_000_000 * before["restored_objects"]
    assert after["deleted_bytes"] > 200_000_000
    assert after["directories_skipped"] == after["fallback_directories"] == 0
    assert after["damaged_objects"] == after["lost_objects"] == after["failed_punches"] == 0
    for operation in ("spill", "restore", "delete"):
        calls = after[f"call_seconds_count/{operation}"]
        assert after[f"call_seconds_bucket/{operation}/+Inf"] == calls > 0
    assert len(after) <= 50


@pytest.fixture(scope="module")
def storage_alone(ray_env: RayEnv) -> Any:
    """What the storage class does beside a Ray that is not started."""
    with short_directory() as path:
        return ray_env.run_program(PROGRAMS / "spill_storage.py", [path])


def test_a_storage_tries_again_and_reports_loss_only_after_the_deadline(storage_alone: Any) -> None:
    assert storage_alone["came_back"] == {"open": True, "read": True}
    assert storage_alone["lost_meanwhile"] == 0
    stale = "open: Stale file handle"
    assert storage_alone["errors"] == [stale, stale]
    assert stale in storage_alone["lost"]
    assert storage_alone["missing_names_its_path"]
    assert len(storage_alone["lost"]) == storage_alone["lost"].count(stale) + 1


def test_a_storage_that_closes_joins_its_threads_and_leaves_nothing(storage_alone: Any) -> None:
    assert "mantaray-spill" in storage_alone["threads"]
    assert storage_alone["threads_after_close"] == []
    assert storage_alone["left"] == []


def test_a_storage_has_the_names_that_scripts_read(storage_alone: Any) -> None:
    assert storage_alone["names"] == ["ray_spilled_objects_" + "ab" * 28, 0, -1]


def test_directory_of_a_dead_raylet_is_removed_and_others_stay(ray_env: RayEnv, root: Path) -> None:
    seen = ray_env.run_program(PROGRAMS / "spill_leftovers.py", [root])
    assert seen == {"judged": True, "removed": True, "foreign_stays": True, "unknown_stays": True}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"directory_path": "FILE"}, "is not a directory"),
        ({"directory_path": "ROOT", "colour": "blue"}, "unknown key 'colour'"),
    ],
)
def test_bad_configuration_stops_ray_start_with_one_sentence(
    ray_env: RayEnv, root: Path, params: dict[str, str], words: str
) -> None:
    (root / "file").write_text("")
    places = {"FILE": str(root / "file"), "ROOT": str(root)}
    filled = {key: places.get(value, value) for key, value in params.items()}
    storage = json.dumps({"type": "filesystem", "params": filled})
    config = json.dumps({"object_spilling_config": storage})
    assert_start_refused(ray_env, words, f"--system-config={config}")
