"""The manifests of docs/relay.md, as an operator would paste them: systemd and Kubernetes take them.

Schemas and parsers only: nothing here runs a service manager or a cluster. What KubeRay adds to
Kubernetes' own objects is checked against the fields of its v1 API.
"""

from __future__ import annotations

import json
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


def worker_groups() -> list[dict[str, Any]]:
    """Return the worker groups of the page's fragment of a RayCluster."""
    (fragment,) = (one for one in documents() if "workerGroupSpecs" in one)
    assert set(fragment) == {"workerGroupSpecs"}
    return list(fragment["workerGroupSpecs"])


def merged(into: Any, patch: Any) -> Any:
    """Return what `kubectl patch` makes of an object: lists of named things are merged by name."""
    if isinstance(into, dict) and isinstance(patch, dict):
        return into | {key: merged(into.get(key), value) for key, value in patch.items()}
    if isinstance(into, list) and isinstance(patch, list):
        names = {one["name"]: one for one in into}
        for one in patch:
            names[one["name"]] = merged(names.get(one["name"]), one)
        return list(names.values())
    return patch


def deployment_with_tls() -> dict[str, Any]:
    """Return the Deployment after the page's patch."""
    (patch,) = (one for one in documents() if set(one) == {"spec"})
    return dict(merged(object_of("Deployment"), patch))


def commands() -> list[str]:
    """Return the lines of all commands of the page, those inside of lists too."""
    found = re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [line.strip() for block in found for line in block.splitlines()]


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
    assert {one["kind"] for one in objects} == {"Deployment", "Service", "PodDisruptionBudget"}
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    wrong = object_of("Deployment")
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kuberay_takes_the_worker_group(version: str) -> None:
    for group in worker_groups():
        assert WORKER_GROUP <= set(group) <= WORKER_GROUP | WORKER_GROUP_OPTIONS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        template = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(template, version, strict=True)


def test_names_and_ports_lead_where_they_should() -> None:
    deployment, service = object_of("Deployment"), object_of("Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in ports
    (group,) = worker_groups()
    address = group["rayStartParams"]["address"]
    assert address == f"{service['metadata']['name']}:{port['port']}"
    for probe in ("livenessProbe", "readinessProbe"):
        assert container()[probe]["httpGet"]["port"] in ports


def test_a_host_that_dies_does_not_take_both_relays() -> None:
    deployment, budget = object_of("Deployment"), object_of("PodDisruptionBudget")
    spec = deployment["spec"]["template"]["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["replicas"] == 2
    rule = "requiredDuringSchedulingIgnoredDuringExecution"
    (apart,) = spec["affinity"]["podAntiAffinity"][rule]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert apart["labelSelector"]["matchLabels"] == labels
    # Neither an upgrade nor the draining of hosts takes both.
    update = deployment["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxUnavailable": 1, "maxSurge": 0}
    assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    # A pod leaves a lost host before raylets give up, which takes 60 s.
    waits_s = {one["key"]: one["tolerationSeconds"] for one in spec["tolerations"]}
    assert set(waits_s) == {f"node.kubernetes.io/{why}" for why in ("not-ready", "unreachable")}
    assert max(waits_s.values()) < 30


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_deployment_with_tls(version: str) -> None:
    deployment = deployment_with_tls()
    kubernetes_validate.validate(deployment, version, strict=True)
    pod = deployment["spec"]["template"]["spec"]
    (relay,) = pod["containers"]
    assert relay["args"] == container()["args"]
    (mount,), (volume,) = relay["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    values = {one["name"]: one["value"] for one in relay["env"] if "value" in one}
    # Every variable is one that the relay reads, and every file one that the Secret is made with.
    told = subprocess.run([relay_program(), "--help"], capture_output=True, text=True).stdout
    assert len(values) == 4
    assert all(name in told for name in values)
    (create,) = (line for line in commands() if "create secret" in line)
    assert create.split()[4] == volume["secret"]["secretName"]
    files = {value for name, value in values.items() if name != "RAY_USE_TLS"}
    sources = re.findall(r"--from-file=(\S+)", create)
    assert files == {f"{mount['mountPath']}/{source}" for source in sources}


def test_commands_name_what_the_manifests_define() -> None:
    (group,) = worker_groups()
    names = {one["metadata"]["name"] for one in documents() if "kind" in one}
    told = "\n".join(commands())
    assert set(re.findall(r"(?:deployment[/ ]|-l app=)(ray-relay\S+)", told)) == names
    assert set(re.findall(r"ray\.io/group=(\S+)", told)) == {group["groupName"]}
    assert set(re.findall(r"--address=(\S+)", told)) == {group["rayStartParams"]["address"]}
    patches = [json.loads(found) for found in re.findall(r"-p '(.+)'", told)]
    (add,), (remove,) = patches
    assert (add["op"], remove["op"]) == ("add", "remove")
    assert add["path"] == remove["path"] == "/spec/workerGroupSpecs/0/rayStartParams/address"
    assert add["value"] == group["rayStartParams"]["address"]


def test_manifests_say_which_dialect_the_gcs_speaks() -> None:
    (unit,) = blocks("ini")
    for options in (unit.split(), container()["args"]):
        assert [one for one in options if one.startswith("--dialect=")][-1] == "--dialect=batch"


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
