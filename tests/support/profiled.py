"""Two nodes on one address, each with a worker that can be told by its stack: for profiling links.

The second node has process ids of its own, as a container has, so that a profiler of the wrong node
does not happen to find the process. memray needs a debugger, and Ray cannot tell it which: gdb of
Debian 12 fails on processors with AMX ("Couldn't write extended state status"), so a newer lldb is
chosen.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from .cluster import Cluster
from .rays import RayEnv

# 2.60 does not profile by default.
_VARIABLES = {"RAY_DASHBOARD_ENABLE_PROFILING": "1"}
# A node that was killed is dead for the cluster soon; one that is slow has its ten seconds a check.
_SYSTEM_CONFIG = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 1_000}
# A debugger that hangs is given up.
_ATTACH_S = 15
_DEBUGGERS = ("lldb-19", "lldb-18", "lldb")
_START_WORKERS = """
import json, os, sys, threading, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

ray.init(log_to_driver=False)

@ray.remote(num_cpus=0.1)
class Profiled:
    def __init__(self, name):
        self.kept = []
        work = {"first": self.work_of_first, "second": self.work_of_second}[name]
        threading.Thread(target=work, daemon=True).start()

    def work_of_first(self):
        while True:
            self.churn()

    def work_of_second(self):
        while True:
            self.churn()

    def churn(self):
        self.kept = [bytearray(500_000) for _ in range(20)]
        sum(range(100_000))
        time.sleep(0.01)

    def where(self):
        context = ray.get_runtime_context()
        return [os.getpid(), context.get_node_id(), context.get_actor_id()]

# The head, then a node that shares its address.
def place(node):
    return "node:__internal_head__" not in node["Resources"], node["NodeManagerAddress"]

nodes = sorted(ray.nodes(), key=place)
found = []
for name in sys.argv[1:]:
    node = nodes[["first", "second"].index(name)]
    actor = Profiled.options(
        lifetime="detached",
        namespace="profiled",
        scheduling_strategy=OnNode(node["NodeID"], soft=False),
    ).remote(name)
    found.append(ray.get(actor.where.remote()))
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Worker:
    """A worker that is to be profiled.

    Attributes:
        pid: as its own node sees it.
        node_id: of its node, in hexadecimal.
        actor_id: of the actor in it.
        frame: a function that is on its stack and on nobody else's.
    """

    pid: int
    node_id: str
    actor_id: str
    frame: str


@dataclass(frozen=True)
class Profiled:
    """The cluster and its two workers.

    Attributes:
        cluster: a head, and a second node on the same address.
        first: a worker on the head.
        second: a worker on the other node.

    Leave these two alone: attaching memray stops a process in the middle of whatever it does, and
    some do not survive it. Take a new worker for that.
    """

    cluster: Cluster
    first: Worker
    second: Worker

    @property
    def ip(self) -> str:
        """The address that both nodes have."""
        return self.cluster.nodes[0].address

    def other(self, worker: Worker) -> Worker:
        """Return the worker of the other node."""
        return self.second if worker.node_id == self.first.node_id else self.first

    def new_worker(self, name: str) -> Worker:
        """Start another worker on the "first" or the "second" node."""
        return start_workers(self.cluster, name)[0]

    def get(self, path: str, parameters: Mapping[str, object]) -> Answer:
        """Ask the dashboard as a program would, redirects followed."""
        return get(f"{self.cluster.dashboard_url}{_link(path, parameters)}")

    def redirection(self, path: str, parameters: Mapping[str, object]) -> str:
        """Return where the dashboard says that a link leads to; "" when it does not redirect."""
        connection = http.client.HTTPConnection(self.cluster.dashboard_url.removeprefix("http://"))
        connection.request("GET", _link(path, parameters), headers={"User-Agent": "test"})
        where = connection.getresponse().getheader("Location", "")
        connection.close()
        return where


@dataclass(frozen=True)
class Answer:
    """What a web server said: the last of several answers, and where that came from."""

    status: int
    text: str
    url: str


def get(url: str) -> Answer:
    """Fetch something; an answer that is an error is an answer, too."""
    try:
        with urllib.request.urlopen(url, timeout=120) as reply:
            return Answer(reply.status, reply.read().decode(errors="replace"), reply.url)
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode(errors="replace"), url)


@contextlib.contextmanager
def two_nodes_on_one_address(env: RayEnv, **variables: str) -> Iterator[Profiled]:
    """Start the cluster and its workers; end everything afterwards.

    Args:
        env: the environment whose Ray runs.
        variables: further environment of the nodes' processes.

    The test is skipped where no pid namespace can be made.
    """
    tried = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"])
    if tried.returncode != 0:
        pytest.skip("cannot make a pid namespace here")
    cluster = Cluster(
        env,
        dashboard=True,
        one_address=True,
        system_config=_SYSTEM_CONFIG,
        variables=_VARIABLES | variables,
    )
    tools = cluster.root / "tools"
    _choose_lldb(env, tools)
    cluster.variables["PATH"] = f"{tools}:{env.environment()['PATH']}"
    with cluster:
        cluster.add_node(own_pids=True, resources={"second": 1})
        yield Profiled(cluster, *start_workers(cluster, "first", "second"))


def _link(path: str, parameters: Mapping[str, object]) -> str:
    query = urllib.parse.urlencode({key: str(value) for key, value in parameters.items()})
    return f"/{path}?{query}"


def start_workers(cluster: Cluster, *names: str) -> list[Worker]:
    """Start a worker for each name, on the head ("first") or on another node ("second"); return them."""
    found: list[tuple[int, str, str]] = cluster.run_program(_START_WORKERS, names)
    return [Worker(*who, f"work_of_{name}") for who, name in zip(found, names, strict=True)]


def _choose_lldb(env: RayEnv, directory: Path) -> None:
    memray = shutil.which("memray", path=env.environment()["PATH"])
    lldb = next(filter(None, map(shutil.which, _DEBUGGERS)), None)
    if memray is None or lldb is None:
        pytest.fail("memray or lldb is missing; `make test` installs them")
    directory.mkdir()
    # memray knows it by this name only.
    (directory / "lldb").symlink_to(lldb)
    script = directory / "memray"
    script.write_text(
        "#!/bin/sh\n"
        # Ray runs it through sudo where there is one, and that has a PATH of its own.
        f'PATH="{directory}:$PATH"; export PATH\n'
        'command="$1"; shift\n'
        'case "$command" in\n'
        f'attach|detach) exec timeout -s KILL {_ATTACH_S} {memray} "$command" --method lldb "$@" ;;\n'
        f'*) exec {memray} "$command" "$@" ;;\n'
        "esac\n"
    )
    script.chmod(0o755)
