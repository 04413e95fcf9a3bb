"""A real Prometheus collects a live cluster, takes the alert rules, and has every metric of the dashboard.

`tools/setup test-packages` takes the server out of Debian's package, without installing it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mantaray.syncer import Relay
from tests.support.cluster import READY_TIMEOUT_S, Cluster, free_ports
from tests.support.rays import REPOSITORY, VERSIONS, find_ray, short_directory

pytestmark = pytest.mark.slow

MONITORING = REPOSITORY / "docs" / "monitoring"
ALERTS = MONITORING / "mantaray-alerts.yaml"
DASHBOARD = MONITORING / "mantaray-dashboard.json"
# Spills and restores on both nodes, asks for collections, and names the nodes' exporters.
PROGRAM = """
import json, ray
from ray._private.internal_api import global_gc

ray.init(log_to_driver=False)

@ray.remote(num_cpus=0)
def spill_and_restore():
    refs = [ray.put(bytes(5_000_000)) for _ in range(40)]
    return sum(len(ray.get(ref)) for ref in refs)

nodes = ray.nodes()
for node in nodes:
    at = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    assert ray.get(spill_and_restore.options(scheduling_strategy=at).remote()) == 200_000_000
global_gc()
print(json.dumps([f"{n['NodeManagerAddress']}:{n['MetricsExportPort']}" for n in nodes]))
"""


def prometheus() -> str:
    """Return the program of the server."""
    built = REPOSITORY / "build" / "prometheus"
    found = shutil.which("prometheus") or (str(built) if built.exists() else None)
    if found is None:
        pytest.skip("prometheus is not there: `tools/setup test-packages` could not download it")
    return found


class Server:
    """A running Prometheus that is asked over HTTP."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(
            f"http://{self._address}/api/v1/{path}?{query}", timeout=60
        ) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def wait_for(self, is_there: Callable[[], Any], what: str) -> Any:
        """Wait until a question has an answer that is true; return it."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                found = is_there()
            except (OSError, urllib.error.HTTPError):
                found = None
            if found:
                return found
            time.sleep(0.5)
        raise AssertionError(f"Prometheus does not have {what}")


@contextmanager
def collecting(directory: Path, nodes: list[str], relay: str) -> Iterator[Server]:
    """Run a Prometheus that collects nodes and a relay every second and evaluates the alerts."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": "ray", "static_configs": [{"targets": nodes}]},
            {"job_name": "mantaray-relay", "static_configs": [{"targets": [relay]}]},
        ],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML.
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [
        prometheus(),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield Server(address)
    except AssertionError as error:
        raise AssertionError((directory / "log").read_text()[-4000:]) from error
    finally:
        process.terminate()
        process.wait(60)


def queries() -> list[str]:
    """Return the queries of the dashboard as Grafana would send them for all nodes and relays."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    written = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [
        re.sub(r"\$\{?(?:ip|relay)\}?", ".*", each).replace("$__rate_interval", "15s")
        for each in written
    ]


def test_prometheus_takes_the_rules_and_has_every_metric_of_the_dashboard() -> None:
    prometheus()
    env = find_ray(VERSIONS[-1])
    with (
        short_directory() as root,
        Cluster(env, store_bytes=80_000_000) as cluster,
        Relay(upstream=cluster.address, listen="0.0.0.0:0") as relay,
    ):
        cluster.add_node(through=f"127.0.0.2:{relay.port}")
        exporters = cluster.run_program(PROGRAM)
        assert len(exporters) == 2
        with collecting(Path(root), exporters, relay.admin) as server:
            _wait_for_metrics(server)
            for query in queries():
                server.ask("query", query=query)
            _check_labels(server, exporters)
            _check_rules(server)


def _wait_for_metrics(server: Server) -> None:
    """Wait until the server has every metric of the dashboard; fail with those that are missing."""
    wanted = set(re.findall(r"\b(?:ray_)?mantaray_\w+", " ".join(queries())))
    missing = wanted

    def have_all() -> bool:
        nonlocal missing
        missing = wanted - set(server.ask("label/__name__/values"))
        return not missing

    try:
        server.wait_for(have_all, "all metrics")
    except AssertionError as error:
        raise AssertionError(f"not exported: {sorted(missing)}") from error


def _check_labels(server: Server, exporters: list[str]) -> None:
    """The lists of nodes and relays on the dashboard come from these labels."""
    addresses = {exporter.partition(":")[0] for exporter in exporters}
    assert set(server.ask("label/ip/values")) >= addresses
    for exporter in exporters:
        found = server.ask("query", query=f'ray_mantaray_patches{{instance="{exporter}"}}')
        assert {each["metric"]["State"] for each in found["result"]} == {
            "attached", "native", "off", "refused",
        }  # fmt: skip


def _check_rules(server: Server) -> None:
    """Every rule is evaluated without an error, and a healthy cluster raises no alert."""

    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] == "ok" for rule in rules) else []

    rules = server.wait_for(evaluated, "evaluated rules")
    alerts = re.findall(r"alert: (\w+)", ALERTS.read_text())
    assert sorted(rule["name"] for rule in rules) == sorted(alerts)
    assert server.ask("alerts")["alerts"] == []
