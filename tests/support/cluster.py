"""A Ray cluster on this machine, started with the `ray` command as an operator would.

Each node has a loopback address of its own (127.0.0.2, 127.0.0.3, ...). Ray rewrites 127.0.0.1 to
the machine's outward address; the others it leaves alone, so nothing leaves this machine. Nodes may
also share one address, as pods on the network of their host do. Processes are ended by id: `ray
stop` would end every Ray of the machine.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from . import processes
from .rays import PROGRAM_TIMEOUT_S, RayEnv, new_tag

STORE_BYTES = 100_000_000
# A generous one, for machines that are slow or do much else.
READY_TIMEOUT_S = 240.0
# --kill-child: the whole node goes with the process that we know.
_OWN_PIDS = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--")
# Asks the GCS and no raylet: a driver would attach to one, which may be about to die.
_ALIVE_PROGRAM = """
import json, os
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
nodes = GlobalState()
nodes._initialize_global_state(GcsClientOptions.create(
    os.environ["RAY_ADDRESS"], None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False))
print(json.dumps([n["NodeManagerAddress"] for n in nodes.node_table() if n["Alive"]]))
"""
# Whether the dashboard has said where it is, which it does once it serves.
_DASHBOARD_PROGRAM = """
import json, os
from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
from ray._raylet import GcsClient
from ray.experimental import internal_kv
internal_kv._initialize_internal_kv(GcsClient(address=os.environ["RAY_ADDRESS"]))
told = internal_kv._internal_kv_get(DASHBOARD_ADDRESS, namespace=KV_NAMESPACE_DASHBOARD)
print(json.dumps(told is not None))
"""


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, all different."""
    # Below the range from which the kernel gives out ports, so that Ray's own do not take them.
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        end = max(int(file.read().split()[0]), 20_000)
    candidates = random.SystemRandom().sample(range(10_000, end), 1_000)
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@dataclass
class Node:
    """One `ray start --block`.

    Attributes:
        address: its loopback address.
        process: the `ray` command; its children are the node's processes.
        log: what the command printed.
    """

    address: str
    process: subprocess.Popen[bytes]
    log: Path


class Cluster:
    """A head and further raylets, gone without a trace at the end of the `with` block.

    Args:
        env: the environment whose Ray runs.
        num_cpus: of each node.
        store_bytes: object store of each node, in bytes.
        spill_directories: where objects spill; one below the cluster's own directory by default.
        dashboard: whether to start one (`dashboard_url` then names it).
        system_config: Ray's internal settings.
        variables: environment of the nodes' processes.
        one_address: all nodes have 127.0.0.2 instead of an address each.

    Raises (on entering):
        RuntimeError: the head did not start; the message holds what it printed.
    """

    def __init__(
        self,
        env: RayEnv,
        *,
        num_cpus: int = 2,
        store_bytes: int = STORE_BYTES,
        spill_directories: Sequence[Path] | None = None,
        dashboard: bool = False,
        system_config: Mapping[str, object] | None = None,
        variables: Mapping[str, str] | None = None,
        one_address: bool = False,
    ) -> None:
        self.env = env
        self.root = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
        self.spill_directories = list(spill_directories or [self.root / "spill"])
        self.nodes: list[Node] = []
        self.variables = dict(variables or {})
        self._num_cpus = num_cpus
        self._store_bytes = store_bytes
        self._dashboard = dashboard
        self._system_config = dict(system_config or {})
        self._one_address = one_address
        self._tag = new_tag()
        self.port, self._client_port, self._dashboard_port = free_ports(3)

    @property
    def address(self) -> str:
        """Where drivers connect; set as RAY_ADDRESS for `run_program`."""
        return f"127.0.0.2:{self.port}"

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard answers, when there is one."""
        return f"http://127.0.0.2:{self._dashboard_port}"

    def __enter__(self) -> Cluster:
        try:
            self._start_head()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def add_node(
        self,
        *,
        num_cpus: int | None = None,
        store_bytes: int | None = None,
        resources: Mapping[str, float] | None = None,
        own_pids: bool = False,
        on_heads_address: bool = False,
        through: str | None = None,
        env: RayEnv | None = None,
        variables: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> Node:
        """Start another raylet on this machine and wait until it is part of the cluster.

        Args:
            num_cpus: the cluster's default if not given.
            store_bytes: object store in bytes, the cluster's default if not given.
            resources: custom resources, to place tasks on this node.
            own_pids: in a pid namespace of its own, as in a container; needs root.
            on_heads_address: it has the head's address; all nodes have with `one_address`.
            through: HOST:PORT where it joins, the head itself if not given.
            env: another environment with the same Ray, the cluster's own if not given.
            variables: environment of this node's processes, on top of the cluster's.
            wait: for it to be there; else `wait_for_nodes` does, so that several start together.
        """
        arguments = [f"--address={through or self.address}"]
        if resources:
            arguments.append(f"--resources={json.dumps(dict(resources))}")
        return self._start_node(
            arguments,
            num_cpus or self._num_cpus,
            store_bytes or self._store_bytes,
            _OWN_PIDS if own_pids else (),
            address=self.nodes[0].address if on_heads_address else None,
            env=env,
            variables=variables,
            wait=wait,
        )

    def wait_for_nodes(self, count: int) -> None:
        """Wait until the cluster takes so many nodes for alive, no more and no fewer."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while len(found := self.addresses_alive()) != count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(found)} nodes instead of {count}:\n{self.logs()}")
            time.sleep(0.5)

    def addresses_alive(self) -> list[str]:
        """Return the addresses of the nodes that the GCS takes for alive."""
        alive: list[str] = self.run_program(_ALIVE_PROGRAM)
        return alive

    def run_program(
        self,
        program: Path | str,
        args: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        timeout_s: float = PROGRAM_TIMEOUT_S,
    ) -> Any:
        """Run a driver of this cluster (`ray.init()` finds it); see `RayEnv.run_program`."""
        variables = self.variables | {"RAY_ADDRESS": self.address} | dict(env or {})
        return self.env.run_program(program, args, variables, timeout_s)

    def processes(self, role: str | None = None) -> list[psutil.Process]:
        """Return the cluster's processes, or those of one role (see `processes.role_of`)."""
        found = processes.find(self._tag, [self.root])
        return [process for process in found if role in (None, processes.role_of(process))]

    def pids(self, role: str) -> list[int]:
        """Return the ids of the cluster's processes of one role, ascending."""
        return sorted(process.pid for process in self.processes(role))

    def logs(self) -> str:
        """Return what the `ray start` commands printed."""
        return "\n".join(f"--- {n.address}\n{_read(n.log)}" for n in self.nodes)

    def stop(self) -> None:
        """End every process, remove the cluster's directory.

        Raises:
            AssertionError: a process is still there.
        """
        left = processes.stop_all(self._tag, [self.root])
        for node in self.nodes:
            node.process.wait(timeout=60)
        self.nodes.clear()
        shutil.rmtree(self.root, ignore_errors=True)
        assert not left, f"processes that do not end:\n{processes.describe(left)}"

    def _start_head(self) -> None:
        for directory in self.spill_directories:
            directory.mkdir(parents=True, exist_ok=True)
        spilling = {
            "type": "filesystem",
            "params": {"directory_path": [str(path) for path in self.spill_directories]},
        }
        config = {"object_spilling_config": json.dumps(spilling), **self._system_config}
        arguments = [
            "--head",
            f"--port={self.port}",
            f"--ray-client-server-port={self._client_port}",
            f"--temp-dir={self.root / 't'}",
            f"--system-config={json.dumps(config)}",
            f"--dashboard-port={self._dashboard_port}",
            "--dashboard-host=127.0.0.2",
            # One that is asked for by name would be the end of a head that it is too slow for.
            *([] if self._dashboard else ["--include-dashboard=false"]),
        ]
        head = self._start_node(arguments, self._num_cpus, self._store_bytes)
        if self._dashboard:
            self._wait_for_dashboard(head)

    def _wait_for_dashboard(self, head: Node) -> None:
        """Wait for a dashboard that `ray start` has not waited for.

        Ray 2.48 gives it 20 s to come up, and no setting changes that: too few on a machine that does
        much else. The head then goes on without it, and it comes when it is ready.
        """
        said = _read(head.log)
        if "Failed to start the dashboard" not in said and "Failed to bind to" not in said:
            return
        has_ended = "return code" in said or "Failed to bind to" in said
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.run_program(_DASHBOARD_PROGRAM):
            if has_ended or time.monotonic() > deadline:
                log = _read(self.root / "t/session_latest/logs/dashboard.log")
                raise RuntimeError(f"no dashboard:\n{said}\n{log[-4000:]}")
            time.sleep(0.5)

    def _start_node(
        self,
        arguments: list[str],
        num_cpus: int,
        store_bytes: int,
        prefix: Sequence[str] = (),
        address: str | None = None,
        env: RayEnv | None = None,
        variables: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> Node:
        env = env or self.env
        of_node = {processes.TAG_VARIABLE: self._tag} | self.variables | dict(variables or {})
        own_address = "127.0.0.2" if self._one_address else f"127.0.0.{len(self.nodes) + 2}"
        address = address or own_address
        command = [
            *prefix,
            str(env.bin("ray")),
            "start",
            *arguments,
            f"--node-ip-address={address}",
            f"--num-cpus={num_cpus}",
            f"--object-store-memory={store_bytes}",
            # 0: any free port, so that clusters side by side do not collide.
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--dashboard-agent-listen-port={free_ports(1)[0]}",
            "--block",
        ]
        log = self.root / f"start-{len(self.nodes)}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command,
                env=env.environment(**of_node),
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(address, process, log)
        self.nodes.append(node)
        if wait:
            self._wait_until_ready(node)
        return node

    def _wait_until_ready(self, node: Node) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while "--block" not in _read(node.log):
            if node.process.poll() is not None:
                raise RuntimeError(f"`ray start` of {node.address} ended:\n{_read(node.log)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{node.address} is not up after a while:\n{self.logs()}")
            time.sleep(0.1)
        # The first driver waits for the head by itself; of further nodes it knows nothing.
        while node is not self.nodes[0] and not self._has_joined(node):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{node.address} did not join the cluster:\n{self.logs()}")

    def _has_joined(self, node: Node) -> bool:
        expected = [n for n in self.nodes if n.address == node.address and n.process.poll() is None]
        return self.addresses_alive().count(node.address) >= len(expected)


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
