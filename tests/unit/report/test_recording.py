"""Figures of a report: reading exporters' text, sums over nodes, rates and quantiles."""

from __future__ import annotations

import math

from mantaray.report.exposition import Sample, parse
from mantaray.report.recording import Recording, combine, growth, quantile, rate

TEXT = r"""# HELP ray_mantaray_spill_live_bytes Bytes of the objects on disk.
# TYPE ray_mantaray_spill_live_bytes gauge
ray_mantaray_spill_live_bytes{ip="10.0.0.1",Session="a, \"b\" and \\c"} 1.5e+06
ray_mantaray_spill_live_bytes_of_somebody_else{ip="10.0.0.1"} 7
ray_mantaray_patches{State="attached"} 13 1700000000000
ray_mantaray_patches{State="off"} NaN
bare 3
ray_mantaray_patches{State="broken"
"""


def test_a_sample_s_labels_may_hold_commas_and_quotes() -> None:
    (sample,) = parse(TEXT, ["ray_mantaray_spill_live_bytes"])
    assert sample.value == 1_500_000
    assert dict(sample.labels) == {"ip": "10.0.0.1", "Session": 'a, "b" and \\c'}


def test_samples_with_a_time_or_without_labels_are_read_and_broken_lines_are_skipped() -> None:
    samples = list(parse(TEXT, ["ray_mantaray_patches", "bare"]))
    assert [(s.name, s.value) for s in samples if math.isfinite(s.value)] == [
        ("ray_mantaray_patches", 13),
        ("bare", 3),
    ]


def test_a_value_that_is_no_number_is_not_recorded() -> None:
    recording = Recording()
    recording.add(1, parse(TEXT, ["ray_mantaray_patches"]))
    assert recording.last("ray_mantaray_patches") == 13
    assert recording.last("ray_mantaray_patches", State="off") is None


def test_series_of_a_metric_are_told_apart_by_their_labels() -> None:
    recording = Recording()
    for kind, value in (("young", 1.0), ("full", 2.0)):
        recording.add(1, [Sample("pause", (("Kind", kind), ("ip", "x")), value)])
    assert recording.named("pause", Kind="full") == [[(1, 2.0)]]
    assert recording.values_of("pause", "Kind") == ["full", "young"]
    assert recording.last("pause") == 3


def test_a_node_that_missed_one_reading_does_not_lower_the_sum() -> None:
    steady = [(0.0, 10.0), (5.0, 10.0), (10.0, 10.0)]
    missed = [(0.0, 5.0), (10.0, 7.0)]
    assert combine([steady, missed]) == [(0.0, 15.0), (5.0, 15.0), (10.0, 17.0)]


def test_a_node_that_left_the_cluster_counts_no_longer() -> None:
    left = [(0.0, 5.0)]
    stayed = [(0.0, 1.0), (5.0, 1.0)]
    assert combine([left, stayed]) == [(0.0, 6.0), (5.0, 1.0)]


def test_a_rate_is_a_mean_of_three_intervals_because_agents_renew_figures_every_five_seconds() -> (
    None
):
    assert rate([(0, 0), (2, 0), (4, 60), (6, 60), (8, 60)]) == [(2, 0), (4, 15), (6, 10), (8, 10)]


def test_a_restarted_agent_makes_no_negative_rate() -> None:
    points = [(0.0, 100.0), (10.0, 200.0), (20.0, 0.0), (30.0, 30.0)]
    assert min(value for _, value in rate(points)) >= 0
    assert growth(points) == 130


def test_quantiles_are_those_of_prometheus() -> None:
    buckets = {1.0: 10.0, 10.0: 90.0, 100.0: 100.0, math.inf: 100.0}
    assert quantile(0.5, buckets) == 5.5
    assert quantile(0.95, buckets) == 55.0


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile(0.99, {1.0: 0.0, 5.0: 50.0, math.inf: 100.0}) == 5.0
    assert quantile(0.5, {1.0: 0.0, math.inf: 0.0}) is None
    assert quantile(0.5, {}) is None
