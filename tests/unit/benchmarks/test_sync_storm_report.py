"""The report of the sync benchmark: medians, targets, and what did not converge."""

from __future__ import annotations

import sys
from typing import Any

from tests.support.rays import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import sync_arms
import sync_storm


def a_run(nodes: int, arm: str, **figures: Any) -> dict[str, Any]:
    """Return a run with these figures; the others are 1."""
    plain = (
        "staleness_p50_ms staleness_p99_ms gcs_cpu_s relay_cpu_s generator_cpu_s machine_cpu_s"
        " lateness_p99_ms relay_rss_mb gcs_rss_mb missing measured lost_at_join join_ms messages bytes"
    )
    run: dict[str, Any] = dict.fromkeys(plain.split(), 1.0)
    run |= {"client": "light", "hz": 1.0, "nodes": nodes, "ray": "2.60.0", "arm": arm}
    return run | {"seconds": 10.0, "burst_ms": [1.0], "damaged": 0, "own": 0} | figures


def verdicts(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """Return whether each target that can be decided is met."""
    cells = sync_storm.summarise(runs)
    return {check["target"]: check["met"] for check in sync_storm.all_targets(cells)}


def test_targets_without_runs_are_not_decided() -> None:
    assert verdicts([]) == {}
    assert verdicts([a_run(400, "direct"), a_run(800, "direct")]) == {}


def test_a_missed_target_is_not_reported_as_met() -> None:
    runs = [
        a_run(400, "direct", gcs_cpu_s=8.0),
        a_run(400, "relays-4", gcs_cpu_s=2.1, staleness_p99_ms=151.0),
        a_run(800, "direct", staleness_p99_ms=1000.0, burst_ms=[900.0]),
        a_run(800, "relays-4", staleness_p99_ms=101.0, burst_ms=[301.0]),
        a_run(800, "relays-1", relay_rss_mb=151.0),
    ]
    assert len(verdicts(runs)) == 5
    assert not any(verdicts(runs).values())


def test_targets_are_met_at_their_limit() -> None:
    runs = [
        a_run(400, "direct", gcs_cpu_s=8.0),
        a_run(400, "relays-4", gcs_cpu_s=2.0, staleness_p99_ms=150.0),
        a_run(800, "direct", staleness_p99_ms=1000.0, burst_ms=[900.0]),
        a_run(800, "relays-4", staleness_p99_ms=100.0, burst_ms=[300.0]),
        a_run(800, "relays-1", relay_rss_mb=150.0),
    ]
    assert len(verdicts(runs)) == 5
    assert all(verdicts(runs).values())


def test_what_never_converged_is_slower_than_anything_that_did() -> None:
    runs = [a_run(800, "direct", burst_ms=[5.0, -1.0, -1.0], join_ms=-1.0)]
    (figures,) = sync_storm.summarise(runs).values()
    assert figures["burst_median_ms"] == float("inf")
    assert figures["join_s"] == float("inf")
    assert sync_storm.show(figures["burst_median_ms"]) == "> 30,000"


def test_a_staleness_that_was_cut_off_is_shown_as_a_bound() -> None:
    run = a_run(800, "direct", staleness_p99_ms=18_088.0, missing=31.0, measured=100.0)
    (figures,) = sync_storm.summarise([run]).values()
    assert sync_storm.bounded(figures, "staleness_p99_ms") == "> 18,088 (31 % undelivered)"
    assert sync_storm.bounded(figures, "staleness_p50_ms") == "1.00"
    assert sync_storm.bounded(figures | {"missing": 0}, "staleness_p99_ms") == "18,088"


def test_the_memory_of_a_relay_is_the_worst_of_all_runs() -> None:
    runs = [a_run(800, "relays-1", relay_rss_mb=each) for each in (10.0, 10.0, 200.0)]
    assert verdicts(runs) == {"a relay with 800 nodes: memory": False}


def test_rounds_go_back_and_forth() -> None:
    order = [cell for _, cell in sync_arms.interleaved(["a", "b"], 3)]
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_labels_of_the_picture_do_not_run_into_each_other() -> None:
    assert sync_storm.labels_of([400]) == ["400"]
    assert sync_storm.labels_of([50, 100, 200]) == ["50", "100", "200"]
    assert sync_storm.labels_of([400, 800, 1000, 1200, 1600]) == ["400", "800", "", "", "1600"]


def test_the_load_with_calls_decides_and_is_not_mixed_with_the_load_without() -> None:
    runs = [
        a_run(400, "relays-4", staleness_p99_ms=10.0),
        a_run(400, "relays-4", staleness_p99_ms=151.0, workers=4, call_p50_ms=1.0, call_p99_ms=3.0),
    ]
    cells = sync_storm.summarise(runs)
    assert len(cells) == 2
    assert verdicts(runs) == {"400 nodes, 4 relays: p99 staleness": False}
    heads, (row,) = sync_storm.tables(cells)["light-1hz-workers-4"]
    assert dict(zip(heads, row, strict=True))["call p99 ms"] == "3.00"
