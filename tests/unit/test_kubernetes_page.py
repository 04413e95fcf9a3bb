"""The manifest of docs/kubernetes.md, as an operator would paste it. Schemas only: no cluster is there."""

from __future__ import annotations

import json
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from mantaray.overlay.hooks import OVERLAY
from mantaray.settings import SETTINGS

from tests.support.rays import REPOSITORY

PAGE = (REPOSITORY / "docs" / "kubernetes.md").read_text()
KUBERNETES = ("1.30", "1.37")
OF_RAY = {"RAY_object_spilling_config", "RAY_DASHBOARD_ENABLE_PROFILING"}
HEAD_GROUP = {"rayStartParams", "template"}
WORKER_GROUP = HEAD_GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas"}


def cluster() -> dict[str, Any]:
    """Return the RayCluster."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return dict(yaml.safe_load(block))


def groups() -> list[dict[str, Any]]:
    """Return the head's group and those of the workers."""
    spec = cluster()["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_pods(version: str) -> None:
    for group in groups():
        template = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(template, version, strict=True)


def test_kuberay_knows_every_field() -> None:
    assert set(cluster()) == {"apiVersion", "kind", "metadata", "spec"}
    assert (cluster()["apiVersion"], cluster()["kind"]) == ("ray.io/v1", "RayCluster")
    assert set(cluster()["spec"]) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    head, *workers = groups()
    assert set(head) == HEAD_GROUP
    for group in workers:
        assert set(group) == WORKER_GROUP
    for group in groups():
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_every_setting_exists_and_every_directory_is_mounted() -> None:
    for group in groups():
        (container,) = group["template"]["spec"]["containers"]
        values = {each["name"]: each["value"] for each in container["env"]}
        assert set(values) - OF_RAY <= {setting.name for setting in SETTINGS}
        spilling = json.loads(values["RAY_object_spilling_config"])
        mounted = {each["mountPath"] for each in container["volumeMounts"]}
        assert set(spilling["params"]["directory_path"]) <= mounted


def test_every_patch_says_what_it_needs() -> None:
    cells = " ".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", cells))
    OVERLAY.discover()
    assert {patch.name for patch in OVERLAY.patches()} == named
