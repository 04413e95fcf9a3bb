"""The page of a report: what it says, what it leaves out, and that it contains all that it shows."""

from __future__ import annotations

import html
import itertools
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mantaray.report import names, sections
from mantaray.report.charts import Line, in_bytes, in_ms, line_chart
from mantaray.report.exposition import Sample
from mantaray.report.model import Branch, Node, Relay
from mantaray.report.page import patches_by_node, render, warnings
from mantaray.report.recording import Recording

from tests.support.reports import ORIGIN, busy_recording, node, whole_report
from tools.metrics import node_metrics, relay_metrics

REPOSITORY = Path(__file__).resolve().parents[3]


def words(text: str) -> str:
    """Return what a reader sees of HTML."""
    return html.unescape(
        re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", text, flags=re.S))
    )


def test_every_metric_of_ours_that_the_report_shows_is_one_that_nodes_or_relays_export() -> None:
    exported = {
        series
        for metric in (
            *node_metrics(REPOSITORY / "python" / "mantaray"),
            *relay_metrics(REPOSITORY / "src" / "mantaray" / "relay"),
        )
        for series in metric.series()
    }
    shown = {name for name in (*names.OF_NODES, *names.OF_RELAYS) if "mantaray" in name}
    assert shown <= exported


def test_the_page_loads_nothing_and_runs_no_script() -> None:
    page = whole_report()
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(|https?://", page)
    for picture in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(picture)


def test_what_nodes_say_of_themselves_cannot_become_html() -> None:
    evil = "<b onclick=x>&"
    strange = node(3, problem=evil, patches={evil: ("refused", evil)}, releases={"Ray": evil})
    page = render(ORIGIN, [strange], [Relay(evil, [Branch(0, evil, [evil])], evil)], {}, {})
    assert "<b " not in page
    assert html.escape(evil) in page


def test_disk_and_live_bytes_are_sums_over_the_nodes() -> None:
    nodes = [node(1), node(2)]
    text = words(sections.spilling(nodes, {each.exporter: busy_recording() for each in nodes}))
    assert "400 MB of live objects take 440 MB of disk: 1.10 bytes for each live byte." in text
    assert "spilled 2 GB and restored 1 GB" in text


def test_a_cluster_that_has_nothing_to_show_says_so_in_words() -> None:
    nodes = [node(1)]
    recordings = {nodes[0].exporter: Recording()}
    page = words(
        render(ORIGIN, nodes, [Relay("127.0.0.1:6380", problem="refused")], recordings, {})
    )
    assert "No node reports spilling." in page
    assert "No process has reported a garbage collection" in page
    assert "No router of Ray Serve reports requests" in page
    assert "No relay answers at 127.0.0.1:6380." in page


def test_ray_before_2_55_exports_no_waits_of_routers() -> None:
    recording = Recording()
    for time_s in (0.0, 5.0):
        labels = (("application", "default"), ("deployment", "Model"))
        recording.add(time_s, [Sample(names.QUEUED_REQUESTS, labels, 3.0)])
    text = words(sections.waits({"a": recording}))
    assert "Ray before 2.55 does not export how long requests wait in a router." in text
    assert "not exported" in text


def test_waits_are_those_of_the_time_that_the_report_covers() -> None:
    text = words(sections.waits({"a": busy_recording()}))
    # 1,000 requests before the report, ten fast ones in it.
    assert re.search(r"Model\s+7\s+10\s+0.5 ms\s+0.99 ms", text), text


def test_the_longest_stall_is_named_with_its_node() -> None:
    nodes = [node(1), node(2)]
    slow = busy_recording(pause_ms=735.0)
    recordings = {nodes[0].exporter: busy_recording(), nodes[1].exporter: slow}
    text = words(sections.stalls(nodes, recordings))
    assert "The longest stall of a process that still runs was 735 ms." in text
    assert re.search(r"full\s+6\s+735 ms\s+10.0.0.2", text), text


def test_a_stock_node_and_a_silent_node_are_named() -> None:
    stock = node(2, releases={"Ray": "2.60.0", "Mantaray": "none"}, patches={})
    silent = node(3, releases={}, patches={}, problem="it did not answer within 60 s", exporter="")
    found = warnings([node(1), stock, silent], [], {"10.0.0.1:8080": busy_recording()})
    assert (
        f"{stock.name}: Mantaray is not installed there, so the node runs Ray as it came." in found
    )
    assert f"{silent.name}: it did not answer within 60 s." in found
    assert f"{silent.name}: the node exports no metrics, so the charts below leave it out." in found
    assert not [each for each in found if each.startswith(node(1).name)]


def test_damaged_objects_and_refused_patches_need_a_look() -> None:
    bad = replace(
        node(1),
        patches={"gc": ("refused", "ray._raylet is another one"), "spill": ("off", "asked")},
    )
    recording = busy_recording()
    recording.add(10.0, [Sample(names.DAMAGED, (), 2.0)])
    found = warnings([bad], [], {bad.exporter: recording})
    assert found == [
        f"{bad.name}: the patch gc is refused: ray._raylet is another one.",
        f"{bad.name}: 2 spilled objects were found damaged.",
    ]


def test_nodes_that_are_alike_share_a_card() -> None:
    many = [node(number) for number in range(1, 101)]
    odd = node(101, patches={"spill": ("off", "MANTARAY_PATCHES is -spill")})
    text = words(patches_by_node([*many, odd]))
    assert "100 nodes:" in text
    assert "and 88 more" in text
    assert "1 node:" in text
    assert "spill off: MANTARAY_PATCHES is -spill" in text


def test_an_armed_patch_and_an_active_one_are_both_attached() -> None:
    alike: list[Node] = [
        node(1, patches={"gc": ("active", "")}),
        node(2, patches={"gc": ("armed", "")}),
    ]
    text = words(patches_by_node(alike))
    assert "2 nodes:" in text
    assert "gc attached" in text


def test_a_relay_without_upstream_needs_a_look() -> None:
    relay = Relay("r:1", [Branch(0, "relay 11", ["3 nodes"])], "it is not connected to head:6379")
    assert warnings([], [relay], {}) == ["Relay at r:1: it is not connected to head:6379."]


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0 B"), (999, "999 B"), (62_500_000, "62.5 MB"), (1_200_000_000, "1.2 GB")],
)
def test_bytes_are_written_in_decimal_units(value: float, written: str) -> None:
    assert in_bytes(value) == written


@pytest.mark.parametrize(("value", "written"), [(0.5, "0.5 ms"), (999, "999 ms"), (1_500, "1.5 s")])
def test_long_durations_are_written_in_seconds_so_that_they_fit_beside_an_axis(
    value: float, written: str
) -> None:
    assert in_ms(value) == written


def test_names_beside_lines_that_end_alike_do_not_cover_each_other() -> None:
    same = [Line(f"line {number}", [(0, 5), (10, 5)], number) for number in (1, 2, 3)]
    chart = line_chart("three lines", same, in_ms)
    heights = sorted(
        float(y) for y in re.findall(r'<text class="name[^"]*" x="[^"]*" y="([^"]*)"', chart)
    )
    assert len(heights) == 3
    assert all(after - before >= 12 for before, after in itertools.pairwise(heights))
