"""Serve holds nothing of Mantaray: nodes with, without and with another Mantaray, and a way out.

The stock environment has the same Ray and no Mantaray, so nothing of Mantaray can be imported there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, free_ports
from tests.support.damaged_native import copy_mantaray
from tests.support.rays import RayEnv, find_ray, find_stock_ray, short_directory
from tests.support.relays import gcs_store, has_embedded_store

PROGRAM = Path(__file__).with_name("programs") / "serve_mixed.py"
HEAD, WORKER = "127.0.0.2", "127.0.0.3"
OTHER_VERSION = "0.2.999"
REQUESTS = 24
# A proxy may be slow to start: the controller would end it after five seconds.
PATIENCE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
}
ARRANGEMENTS = [
    pytest.param((version, patched), id=f"ray-{version}-patched-{patched}", marks=pytest.mark.slow)
    for version in ("2.48.0", "2.60.0")
    for patched in ("head", "worker", "both, two versions")
]


@dataclass(frozen=True)
class Mixed:
    """What a cluster of two nodes has answered.

    Attributes:
        versions: of Mantaray, by the address of the node; None where there is none.
        drivers: what the driver that deployed has seen, on the side that has (the newer) Mantaray, and
            then a driver of the other side, by their version of Mantaray.
        recovered: what was answered after Mantaray was uninstalled and the cluster was started again
            from the state that its GCS had kept; None if that was not tried.
    """

    versions: dict[str, str | None]
    drivers: dict[str | None, Any]
    recovered: Any


@dataclass(frozen=True)
class Side:
    """An environment, the variables that choose a Mantaray in it, and the version that it then has."""

    env: RayEnv
    variables: dict[str, str]
    version: str | None


def run(side: Side, cluster: Cluster, *arguments: str) -> Any:
    """Run the program as a driver of that side."""
    variables = cluster.variables | side.variables | {"RAY_ADDRESS": cluster.address}
    return side.env.run_program(PROGRAM, arguments, variables)


def sides(version: str, patched: str, root: Path) -> tuple[Side, Side]:
    """Return what the head and the worker have."""
    env = find_ray(version)
    ours = Side(env, {}, installed_version(env))
    if patched.startswith("both"):
        return ours, Side(env, {"PYTHONPATH": str(with_version(env, root))}, OTHER_VERSION)
    stock = Side(find_stock_ray(version), {}, None)
    return (ours, stock) if patched == "head" else (stock, ours)


def installed(env: RayEnv) -> Path:
    """Return the environment's package."""
    (package,) = env.root.glob("lib/python3*/site-packages/mantaray")
    return package


def installed_version(env: RayEnv) -> str:
    """Return the version of the environment's Mantaray."""
    return (
        (installed(env) / "__init__.py").read_text().partition('__version__ = "')[2].split('"')[0]
    )


def with_version(env: RayEnv, root: Path) -> Path:
    """Return a directory for PYTHONPATH with the environment's Mantaray under another version."""
    copy = copy_mantaray(installed(env), root / "other")
    text = (copy / "__init__.py").read_text()
    (copy / "__init__.py").write_text(text.replace(installed_version(env), OTHER_VERSION))
    return copy.parent


@pytest.fixture(scope="module", params=ARRANGEMENTS)
def mixed(request: pytest.FixtureRequest) -> Iterator[Mixed]:
    """Deploy with Mantaray on two nodes, call from the other side, and take Mantaray out of the head."""
    version, patched = request.param
    (port,) = free_ports(1)
    with (
        short_directory() as root,
        gcs_store(root, embedded=has_embedded_store(version)) as store,
    ):
        head, worker = sides(version, patched, root)
        variables = store | PATIENCE
        with Cluster(head.env, num_cpus=2, variables=variables) as cluster:
            cluster.add_node(env=worker.env, variables=worker.variables)
            # A patched driver deploys: through the controller of a stock head in one of the arrangements.
            deployer, caller = (head, worker) if patched == "head" else (worker, head)
            drivers = {
                side.version: run(side, cluster, what, str(port), HEAD, WORKER)
                for side, what in ((deployer, "deploy"), (caller, "call"))
            }
        recovered = None
        if patched == "head":
            with Cluster(worker.env, num_cpus=2, variables=variables) as cluster:
                recovered = run(worker, cluster, "ask", str(port), HEAD)
        yield Mixed({HEAD: head.version, WORKER: worker.version}, drivers, recovered)


def test_replicas_of_one_deployment_answer_whoever_deployed_them(mixed: Mixed) -> None:
    for version, told in mixed.drivers.items():
        assert told["driver"] == version
        answers = told["of driver"]
        assert [number for number, *_ in answers] == list(range(REQUESTS))
        assert {address: has for _, address, has, _ in answers} == mixed.versions


def test_routers_and_proxies_of_both_nodes_reach_replicas_of_both(mixed: Mixed) -> None:
    for told in mixed.drivers.values():
        assert len(told["seen"]) == 4
        for what, seen in told["seen"].items():
            own = HEAD if what.startswith("app-0") else WORKER
            assert seen["own"] == [own, mixed.versions[own]], what
            assert [number for number, *_ in seen["answers"]] == list(range(REQUESTS)), what
            assert {at: has for _, at, has, _ in seen["answers"]} == mixed.versions, what


def test_no_replica_ends_because_a_router_with_mantaray_asks_it_for_a_slot(mixed: Mixed) -> None:
    """A router with Mantaray once called stock replicas by a method that they lack, which ends an actor."""
    answers = [
        answer
        for told in mixed.drivers.values()
        for each in (told["of driver"], *(seen["answers"] for seen in told["seen"].values()))
        for answer in each
    ]
    processes = {(address, pid) for _, address, _, pid in answers}
    assert len(processes) == len(mixed.versions), processes


def test_controller_recovers_from_its_checkpoint_after_mantaray_was_uninstalled(
    mixed: Mixed,
) -> None:
    if mixed.recovered is None:
        pytest.skip("this head never had Mantaray, or keeps it")
    assert mixed.recovered["driver"] is None
    (seen,) = mixed.recovered["seen"].values()
    assert seen["own"] == [HEAD, None]
    assert [number for number, *_ in seen["answers"]] == list(range(REQUESTS))
    assert {(at, has) for _, at, has, _ in seen["answers"]} == {(HEAD, None)}
