"""The manifests of docs/relay.md, as an operator would paste them: systemd and Kubernetes take them.

Schemas and parsers only: nothing here runs a service manager or a cluster. What KubeRay adds to
Kubernetes' own objects is checked against the fields of its v1 API.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mantaray.syncer import relay_program

PAGE = Path(__file__).resolve().parents[3] / "docs" / "relay.md"
# The oldest and the newest that the installed schemas know, of those that anybody supports.
KUBERNETES = ("1.30", "1.37")
# Of a worker group in KubeRay's v1 API; those that must be there first.
WORKER_GROUP = {"groupName", "rayStartParams", "template"}
WORKER_GROUP_OPTIONS = {"replicas", "minReplicas", "maxReplicas", "numOfHosts", "scaleStrategy"}


def blocks(language: str) -> list[str]:
    """Return the page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def documents() -> list[dict[str, Any]]:
    """Return all YAML documents of the page."""
    return [one for block in blocks("yaml") for one in yaml.safe_load_all(block)]


def object_of(kind: str) -> dict[str, Any]:
    """Return the page's only object of a kind."""
    (found,) = (one for one in documents() if one.get("kind") == kind)
    return found


def container() -> dict[str, Any]:
    """Return the relay's container."""
    (found,) = object_of("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def wrong_with_unit(directory: Path, unit: str) -> str:
    """Return what systemd finds wrong with a unit."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    path = directory / "mantaray-relay.service"
    path.write_text(unit)
    done = subprocess.run(
        [program, "verify", "--man=no", path], capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    (unit,) = blocks("ini")
    # The program that the unit names is not on this machine; any that is stands in for it.
    unit = unit.replace("/opt/ray/bin/mantaray", sys.executable)
    assert wrong_with_unit(tmp_path, unit) == ""
    assert "Unknown" in wrong_with_unit(tmp_path, unit.replace("ProtectSystem", "ProtectSystm"))


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(version: str) -> None:
    objects = [one for one in documents() if "kind" in one]
    assert {one["kind"] for one in objects} == {"Deployment", "Service"}
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    wrong = object_of("Deployment")
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kuberay_takes_the_worker_group(version: str) -> None:
    (fragment,) = (one for one in documents() if "kind" not in one)
    assert set(fragment) == {"workerGroupSpecs"}
    for group in fragment["workerGroupSpecs"]:
        assert WORKER_GROUP <= set(group) <= WORKER_GROUP | WORKER_GROUP_OPTIONS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        template = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(template, version, strict=True)


def test_names_and_ports_lead_where_they_should() -> None:
    deployment, service = object_of("Deployment"), object_of("Service")
    (fragment,) = (one for one in documents() if "kind" not in one)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in ports
    (group,) = fragment["workerGroupSpecs"]
    address = group["rayStartParams"]["address"]
    assert address == f"{service['metadata']['name']}:{port['port']}"
    for probe in ("livenessProbe", "readinessProbe"):
        assert container()[probe]["httpGet"]["port"] in ports


def test_the_relay_takes_the_options_that_the_manifests_give_it() -> None:
    (unit,) = blocks("ini")
    (line,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert line.split()[1] == container()["command"][1] == "relay"
    for options in (line.split()[2:], container()["args"]):
        # What the kubelet would put in.
        options = [option.replace("$(POD_IP)", "10.0.0.1") for option in options]
        # Names an option that there is not after all the others: only that one is complained about.
        done = subprocess.run(
            [relay_program(), *options, "--no-such-option"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "--no-such-option" in done.stderr
