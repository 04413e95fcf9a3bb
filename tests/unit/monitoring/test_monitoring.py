"""Metrics, alert rules and the dashboard: what is declared, exported and queried is the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from mantaray.gc.model import Counts
from mantaray.gc.node import NodeCounts
from mantaray.gc.telemetry import StateFile
from mantaray.states.patch import METRIC

from mantaray.syncer import Relay
from tests.support.rays import REPOSITORY
from tools.dashboard import WIDTH
from tools.metrics import NODE_PREFIX, node_metrics, relay_metrics
from tools.reference import PYTHON, RELAY, all_metrics, metrics_page

ALERTS = REPOSITORY / "docs" / "monitoring" / "mantaray-alerts.yaml"
DASHBOARD = REPOSITORY / "docs" / "monitoring" / "mantaray-dashboard.json"
OURS = re.compile(r"\b(?:ray_)?mantaray_\w+")
# Whom the rules ask that are not Mantaray's.
NODES_OF_RAY = {"ray_node_cpu_count", "up"}


def promtool() -> str:
    """Return the program that checks rules."""
    built = REPOSITORY / "build" / "promtool"
    found = shutil.which("promtool") or (str(built) if built.exists() else None)
    if found is None:
        pytest.skip(
            "promtool is not there: `tools/setup test-packages` could not download prometheus"
        )
    return found


def series() -> set[str]:
    """Return every name that a query can use."""
    return {name for metric in all_metrics() for name in metric.series()}


def queries() -> list[str]:
    """Return the queries of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_the_metrics_of_a_node_are_those_of_the_reference(tmp_path: Path) -> None:
    file = StateFile(str(tmp_path), False, "a1")
    file.update(Counts(), "up to date", None)
    exported = {
        NODE_PREFIX + each.name: (each.description, tuple(each.tags))
        for each in NodeCounts().figures(str(tmp_path), "a1")
    }
    declared = {each.name: (each.description, each.labels) for each in node_metrics(PYTHON)}
    assert declared.pop(NODE_PREFIX + METRIC)[1] == ("State",)
    of_gc = {name: said for name, said in declared.items() if "_gc_" in name}
    assert exported == of_gc


def test_the_metrics_of_a_relay_are_those_of_the_reference() -> None:
    with Relay(upstream="127.0.0.1:1", listen="127.0.0.1:0") as relay:
        text = relay.metrics()
    exported = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    declared = relay_metrics(RELAY)
    assert sorted(exported) == sorted((each.name, each.kind) for each in declared)
    for metric in declared:
        assert f"# HELP {metric.name} {metric.description}\n" in text
        sample = re.search(rf"^{metric.series()[0]}(?:{{(.*)}})? ", text, re.MULTILINE)
        assert sample is not None, metric.name
        labels = tuple(re.findall(r'(\w+)="', sample[1] or ""))
        assert tuple(each for each in labels if each != "le") == metric.labels


def test_every_metric_is_in_the_reference() -> None:
    page = metrics_page()
    assert all(f"| `{metric.name}` |" in page for metric in all_metrics())
    assert len(all_metrics()) == len(series()) - 4, "two histograms have three series each"


def test_the_dashboard_asks_for_every_metric_and_for_nothing_else() -> None:
    asked = set(OURS.findall(" ".join(queries())))
    assert asked - series() == set()
    unseen = [each.name for each in all_metrics() if not asked & set(each.series())]
    assert unseen == []


def test_grafana_can_place_and_address_every_panel() -> None:
    board = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        refs = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(refs)) == len(refs)
    used = set(re.findall(r"\$\{?(\w+)", " ".join([*queries(), json.dumps(board["panels"])])))
    known = {each["name"] for each in board["templating"]["list"]}
    assert used - known == {"__rate_interval"}


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    rules = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    names = set(
        re.findall(r"\b(?:ray_\w+|mantaray_\w+|up)\b", " ".join(rule["expr"] for rule in rules))
    )
    assert names - series() == NODES_OF_RAY
    how_to = (REPOSITORY / "docs" / "monitoring.md").read_text()
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in how_to] == []


def check(tmp_path: Path, rules: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run promtool on rules beside their tests."""
    (tmp_path / ALERTS.name).write_text(rules)
    shutil.copy(Path(__file__).with_name("alerts_test.yaml"), tmp_path)
    return subprocess.run(
        [promtool(), *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )


def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    rules = ALERTS.read_text()
    done = check(tmp_path, rules, "test", "rules", "alerts_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = re.findall(r"alert: (\w+)", rules)
    tests = Path(__file__).with_name("alerts_test.yaml").read_text()
    assert [
        alert for alert in alerts if f"alertname: {alert}\n        exp_alerts" not in tests
    ] == []


def test_a_rule_that_no_longer_fires_fails_its_test(tmp_path: Path) -> None:
    broken = ALERTS.read_text().replace(
        "mantaray_relay_sync_lag_ms > 1000", "mantaray_relay_sync_lag_ms > 2000"
    )
    assert check(tmp_path, broken, "test", "rules", "alerts_test.yaml").returncode != 0


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$\{?\w+\}?", "5m", query)}
        for number, query in enumerate(queries())
    ]
    written = yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]})
    done = check(tmp_path, written, "check", "rules", ALERTS.name)
    assert done.returncode == 0, done.stdout + done.stderr
