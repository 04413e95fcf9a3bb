"""The overlay is active in every process of a cluster, on each supported Ray.

One program starts a local cluster and makes it use a process of each kind. Each process reports
about itself (MANTARAY_REPORT_DIR); the program tells which processes there really were.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import free_ports
from tests.support.rays import RayEnv, short_directory

PROGRAM = '''
"""A cluster with a process of each kind; prints who they are."""

import json, os, subprocess, sys, time
from pathlib import Path

import numpy, psutil, ray
from ray import serve
from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
from ray.experimental.internal_kv import _internal_kv_get

directory, tiny_wheel, dashboard_port, serve_port = sys.argv[1:]
OBJECT_BYTES, OBJECTS = 1 << 20, 150


def wait_until(condition):
    deadline = time.monotonic() + 150
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


# With a dashboard, which would be the end of it if it were asked for by name and too slow.
context = ray.init(
    address="local", num_cpus=4, object_store_memory=80_000_000,
    dashboard_host="127.0.0.1", dashboard_port=int(dashboard_port), _node_ip_address="127.0.0.1",
    _temp_dir=directory + "/ray", log_to_driver=False,
)
wait_until(lambda: _internal_kv_get(DASHBOARD_ADDRESS, namespace=KV_NAMESPACE_DASHBOARD))


@ray.remote
def task():
    return os.getpid()


@ray.remote
def task_in_pip_environment():
    import tiny_for_mantaray
    return os.getpid(), sys.prefix


@ray.remote
class Actor:
    def pid(self):
        return os.getpid()


@serve.deployment
class Replica:
    async def __call__(self):
        return os.getpid()


roles = {"driver": os.getpid(), "task": ray.get(task.remote())}
actor = Actor.remote()
roles["actor"] = ray.get(actor.pid.remote())

# More than the store holds: spilled by one kind of worker, restored by another.
refs = [ray.put(numpy.full(OBJECT_BYTES, i % 251, dtype=numpy.uint8)) for i in range(OBJECTS)]
intact = all((ray.get(ref) == i % 251).all() for i, ref in enumerate(refs))

pip_task = task_in_pip_environment.options(runtime_env={"pip": [tiny_wheel]})
roles["pip task"], pip_prefix = ray.get(pip_task.remote())

serve.start(http_options={"host": "127.0.0.1", "port": int(serve_port)})
roles["serve replica"] = serve.run(Replica.bind()).remote().result()

# Ray takes 127.0.0.1 to mean the address of the host; this one it leaves alone, and it connects.
gcs_address = context.address_info["gcs_address"].replace("127.0.0.1", "0.0.0.0")
command = [sys.executable, str(Path(sys.executable).parent / "ray"), "status",
           "--address", gcs_address]
status = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
status_output, _ = status.communicate(timeout=180)
roles["ray status"] = status.pid

processes = {}
for process in psutil.Process().children(recursive=True):
    # Not the raylet and the GCS, and not what has ended since it was listed.
    try:
        if Path(process.exe()).name.startswith("python"):
            processes[process.pid] = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        pass

# One that has just started reports when it imports Ray.
reports = Path(os.environ["MANTARAY_REPORT_DIR"])
wait_until(lambda: all(
    (reports / f"{pid}.json").exists() for pid in processes if psutil.pid_exists(pid)
    and "multiprocessing.resource_tracker" not in processes[pid]
))
# A copy that a process made of itself to search its heap has its title, reports nothing and ends.
processes = {pid: title for pid, title in processes.items()
             if (reports / f"{pid}.json").exists() or psutil.pid_exists(pid)}
serve.shutdown()
ray.shutdown()
print(json.dumps({
    "roles": roles, "processes": processes, "intact": intact, "pip_prefix": pip_prefix,
    "prefix": sys.prefix, "status": [status.returncode, status_output],
}))
'''

# What of a command line tells the kinds of processes that cannot be asked for their pid.
BY_ARGUMENTS = {
    "spill worker": "--worker-type=SPILL_WORKER",
    "restore worker": "--worker-type=RESTORE_WORKER",
    "dashboard head": "dashboard/dashboard.py",
    "dashboard agent": "dashboard/agent.py",
    "runtime environment agent": "runtime_env/agent/main.py",
    "log monitor": "log_monitor.py",
    "autoscaler monitor": "monitor.py",
}
BY_TITLE = {
    "serve controller": "ray::ServeController",
    "serve proxy": "ray::ProxyActor",
    "dashboard module": "ray-dashboard-",
}
ASKED = ("driver", "task", "actor", "pip task", "serve replica", "ray status")


@dataclass(frozen=True)
class Cluster:
    """What was seen of one cluster.

    Attributes:
        version: of Ray.
        told: what the program printed.
        reports: what each process reported, by process id.
    """

    version: str
    told: dict[str, Any]
    reports: dict[int, dict[str, Any]]

    def pids(self, role: str) -> list[int]:
        """Return the processes of a kind."""
        if role in self.told["roles"]:
            return [self.told["roles"][role]]
        if role in BY_TITLE:
            titles = self.told["processes"].items()
            return [int(pid) for pid, title in titles if BY_TITLE[role] in title]
        part = BY_ARGUMENTS[role]
        return [pid for pid, report in self.reports.items() if part in " ".join(report["argv"])]


def make_tiny_wheel(directory: Path) -> Path:
    """Make a wheel that pip can install without a network."""
    name = "tiny_for_mantaray"
    info = f"{name}-1.0.dist-info"
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return path


@pytest.fixture(scope="module")
def cluster(ray_env: RayEnv) -> Iterator[Cluster]:
    """A cluster that has used a process of each kind, and has ended."""
    with short_directory() as directory:
        told = ray_env.run_program(
            PROGRAM,
            [directory, make_tiny_wheel(directory), *map(str, free_ports(2))],
            {"MANTARAY_REPORT_DIR": str(directory / "reports")},
        )
        reports = {
            int(path.stem): json.loads(path.read_text())
            for path in (directory / "reports").glob("*.json")
        }
        yield Cluster(ray_env.version, told, reports)


def test_the_cluster_did_its_work(cluster: Cluster) -> None:
    assert cluster.told["intact"]
    returncode, output = cluster.told["status"]
    assert returncode == 0, output
    assert "Resources" in output


@pytest.mark.parametrize("role", [*ASKED, *BY_ARGUMENTS, *BY_TITLE])
def test_the_overlay_is_in(cluster: Cluster, role: str) -> None:
    pids = cluster.pids(role)
    assert pids, f"no process of this kind among {cluster.told['processes']}"
    for pid in pids:
        assert pid in cluster.reports, f"{role} {pid} did not report"
        report = cluster.reports[pid]
        assert report["ray_version"] == cluster.version
        assert report["patches"]["spill"]["state"] in ("armed", "active"), report


@pytest.mark.parametrize(
    "role", ["driver", "task", "actor", "pip task", "spill worker", "restore worker"]
)
def test_spilling_is_patched_in(cluster: Cluster, role: str) -> None:
    for pid in cluster.pids(role):
        spill = cluster.reports[pid]["patches"]["spill"]
        assert spill["state"] == "active", spill
        assert "ray._private.external_storage" in spill["why"].split(";")[0]


def test_no_python_process_of_the_cluster_is_without_it(cluster: Cluster) -> None:
    without = {
        pid: command
        for pid, command in cluster.told["processes"].items()
        if int(pid) not in cluster.reports
        # This one of Python's own never imports Ray.
        and "multiprocessing.resource_tracker" not in command
    }
    assert without == {}


def test_the_pip_worker_ran_in_an_environment_of_its_own(cluster: Cluster) -> None:
    assert cluster.told["pip_prefix"] != cluster.told["prefix"]
    (pid,) = cluster.pids("pip task")
    assert cluster.reports[pid]["argv"][0].startswith(cluster.told["pip_prefix"])
