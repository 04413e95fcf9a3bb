"""`mantaray doctor --cluster` and the metric `ray_mantaray_patches`, with nodes that differ."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import READY_TIMEOUT_S, Cluster
from tests.support.rays import RayEnv, short_directory

pytestmark = pytest.mark.slow

ASK = """
import json, os, subprocess, sys
command = [sys.prefix + "/bin/mantaray", "doctor", "--cluster", "--timeout=240", *sys.argv[1:]]
done = subprocess.run(command, capture_output=True, text=True)
print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""
# Where each node exports its metrics.
EXPORTERS = """
import json, ray
ray.init(log_to_driver=False)
print(json.dumps({n["NodeID"]: [n["NodeManagerAddress"], n["MetricsExportPort"]] for n in ray.nodes()}))
"""
# How Python finds that a package is not there, for one node: its other packages stay.
LACKING = "raise ModuleNotFoundError(\"No module named 'mantaray'\", name='mantaray')\n"


def ask(cluster: Cluster, *options: str) -> tuple[int, str, str]:
    """Run the command on the cluster; return its status, output and errors."""
    status, out, errors = cluster.run_program(ASK, options)
    return status, out, errors


def series(address: str, port: int) -> dict[str, float]:
    """Return the values of the metric that a node exports, by state."""
    url = f"http://{address}:{port}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("ray_mantaray_patches{"):
            labels, _, value = line.rpartition(" ")
            state = labels.partition('State="')[2].partition('"')[0]
            assert state not in found, lines
            found[state] = float(value)
    return found


def wait_for_series(exporter: list[Any]) -> dict[str, float]:
    """Wait until a node exports the metric; return its values."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            found = series(*exporter)
        except OSError:
            found = {}
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{exporter} exports no ray_mantaray_patches")


def test_nodes_that_lost_patches_are_marked_and_have_another_metric(ray_env: RayEnv) -> None:
    with short_directory() as root, Cluster(ray_env, num_cpus=1) as cluster:
        alike = ask(cluster)
        assert alike[0] == 0, alike
        assert "DIFFERS" not in alike[1]

        off = cluster.add_node(num_cpus=1, variables={"MANTARAY_PATCHES": "-gc"}).address
        blocker = Path(root, "blocker", "mantaray")
        blocker.mkdir(parents=True)
        (blocker / "__init__.py").write_text(LACKING)
        without = {"PYTHONPATH": str(blocker.parent)}
        lacking = cluster.add_node(num_cpus=1, variables=without).address

        status, text, errors = ask(cluster)
        assert status == 1, text + errors
        lines = {line.split()[1]: line for line in text.splitlines() if "127.0.0." in line}
        assert not lines["127.0.0.2"].endswith("DIFFERS"), text
        assert lines[off].endswith("DIFFERS"), text
        assert lines[lacking].endswith("DIFFERS"), text
        assert "gc is off, elsewhere active" in text
        assert "Mantaray is none, elsewhere" in text
        assert "Traceback" not in errors

        status, text, _ = ask(cluster, "--json")
        nodes = {node["address"]: node for node in json.loads(text)["nodes"]}
        assert status == 1
        assert nodes[off]["patches"]["gc"]["why"] == "MANTARAY_PATCHES is -gc"
        assert nodes[lacking]["mantaray"] is None
        assert nodes["127.0.0.2"]["is_head"]

        exporters = {where[0]: where for where in cluster.run_program(EXPORTERS).values()}
        of_head, of_off = (wait_for_series(exporters[at]) for at in ("127.0.0.2", off))
        assert of_head["off"] == of_head["refused"] == 0
        assert of_off["off"] == 1
        assert of_off["attached"] == of_head["attached"] - 1
        assert sum(of_off.values()) == sum(of_head.values()) == len(nodes[off]["patches"])
        # This node exports, as stock Ray does, and has nothing of ours.
        assert series(*exporters[lacking]) == {}


def test_no_cluster_is_one_error_with_a_hint(ray_env: RayEnv) -> None:
    told = ray_env.run_program(ASK, ["--address", "127.0.0.1:1"], timeout_s=400)
    status, _, errors = told
    assert status == 1
    assert "error: no cluster at 127.0.0.1:1" in errors
    assert "hint: run this on a node of a running cluster" in errors
