"""The parts of the sync benchmarks: a real GCS, relays before it, simulated raylets, CPU by process.

What is measured is the `gcs_server` of an installed Ray, started as `ray start --head` starts it, and
relays; the load is the C++ program of benchmarks/sync_storm. All of it on this machine, on loopback.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_programs import ENVIRONMENTS, RAYS, ray_environment

REPOSITORY = Path(__file__).resolve().parents[1]
GENERATOR = "//benchmarks/sync_storm:sync_storm"
RELAY = "//src/mantaray/relay:mantaray-relay"
WORKER_CALLS = "//benchmarks/sync_storm:worker_calls"
RAYLET_ANSWERS = "//benchmarks/sync_storm:raylet_answers"
# From 2.53 on raylets and the GCS exchange batches.
DIALECTS = {"2.48.0": "bare", "2.52.1": "bare", "2.55.1": "batch", "2.60.0": "batch"}
# The service at which processes wait for what is published.
PUBSUB = dict.fromkeys(DIALECTS, "InternalPubSubGcsService") | {
    "2.60.0": "ControlPlanePubSubGcsService"
}
START_TIMEOUT_S = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")
# By which the tests know what they have started (tests/support/processes.py).
_HARNESS_TAG = "HARNESS_TAG"
# What upstream offers against the same load: batches of what the GCS sends (2.53 and later).
UPSTREAM_BATCHING = {
    "gcs_resource_broadcast_max_batch_size": 1000,
    "gcs_resource_broadcast_max_batch_delay_ms": 50,
}


@dataclass(frozen=True)
class Arm:
    """One way to run the same load.

    Attributes:
        name: "direct", "batching" (direct, with upstream's batching on), "relays-N", or "relays-N-Wms" with
            another window than the relay's default; with "-hush" at its end relays suppress noise.
        relays: how many stand before the GCS.
        window_ms: of the relays, in milliseconds; None is their default.
        hush: whether the relays suppress noise.
        config: Ray's internal settings for the GCS.
    """

    name: str
    relays: int = 0
    window_ms: int | None = None
    hush: bool = False
    config: Mapping[str, object] = field(default_factory=dict)


def parse_arm(name: str) -> Arm:
    """Return the arm of this name.

    Raises:
        ValueError: there is none.
    """
    if name == "direct":
        return Arm(name)
    if name == "batching":
        return Arm(name, config=UPSTREAM_BATCHING)
    match = re.fullmatch(r"relays-([1-9]\d*)(?:-(\d+)ms)?(-hush)?", name)
    if match:
        window_ms = int(match[2]) if match[2] else None
        return Arm(name, relays=int(match[1]), window_ms=window_ms, hush=bool(match[3]))
    raise ValueError(f"no such arm: {name!r}; there are direct, batching, relays-N[-Wms][-hush]")


def runs_on(arm: Arm, ray: str) -> bool:
    """Return whether this Ray knows the arm's settings."""
    return not arm.config or DIALECTS[ray] == "batch"


@dataclass(frozen=True)
class RelayCommand:
    """How a relay is started.

    Attributes:
        binary: the program.
        arguments: on top of those that say where it stands.
    """

    binary: Path
    arguments: Sequence[str] = ()

    def line(self, upstream: str, port: int, arm: Arm) -> list[str]:
        """Return the command line of one of the arm's relays, on the port."""
        own = [f"--upstream={upstream}", f"--listen=0.0.0.0:{port}", "--admin-listen="]
        # It ends with us, however we end.
        own += [f"--parent-pid={os.getpid()}", "--log-level=warning"]
        if arm.window_ms is not None:
            own.append(f"--window-ms={arm.window_ms}")
        if arm.hush:
            own.append("--suppress-noise")
        return [str(self.binary), *own, *self.arguments]


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, below those that the kernel gives out."""
    found = []
    for port in random.SystemRandom().sample(range(10_000, 30_000), 2_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory with a short name (Ray's sockets are below it); remove it."""
    directory = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def process(
    command: Sequence[str], directory: Path, name: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process whose output goes to `<directory>/<name>.log`; end it."""
    with open(directory / f"{name}.log", "wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=env,
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def wait_for_port(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the process answers on the port.

    Raises:
        RuntimeError: it ended, or does not answer; the message holds its log.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"{log.stem} does not answer on port {port}:\n{tail}")


@contextlib.contextmanager
def gcs_server(
    ray: str, directory: Path, config: Mapping[str, object]
) -> Iterator[tuple[int, int]]:
    """Start this Ray's GCS with its state in memory; yields its process id and port."""
    port = free_ports(1)[0]
    found = list((ENVIRONMENTS / f"ray-{ray}").glob("lib/python*/site-packages/ray"))
    if not found:
        raise RuntimeError(f"no environment with Ray {ray} below {ENVIRONMENTS}")
    command = [
        str(found[0] / "core/src/ray/gcs/gcs_server"),
        f"--log_dir={directory}",
        f"--config_list={base64.b64encode(json.dumps(dict(config)).encode()).decode()}",
        f"--gcs_server_port={port}",
        "--metrics-agent-port=1",
        "--node-ip-address=127.0.0.1",
        "--session-name=session_sync_storm",
    ]
    if DIALECTS[ray] == "batch":
        command += [f"--session-dir={directory}", f"--node-id={'ab' * 28}"]
    with process(command, directory, "gcs", ray_environment(ray)) as child:
        wait_for_port(port, child, directory / "gcs.log")
        yield child.pid, port


@contextlib.contextmanager
def relays(
    command: RelayCommand, arm: Arm, upstream: str, directory: Path
) -> Iterator[tuple[list[int], list[int]]]:
    """Start the arm's relays of the GCS; yields their process ids and ports."""
    with contextlib.ExitStack() as stack:
        pids, ports = [], free_ports(arm.relays) if arm.relays else []
        for number, port in enumerate(ports):
            name = f"relay-{number}"
            line = command.line(upstream, port, arm)
            child = stack.enter_context(process(line, directory, name, ray_environment(RAYS[-1])))
            wait_for_port(port, child, directory / f"{name}.log")
            pids.append(child.pid)
        yield pids, ports


def build(target: str) -> Path:
    """Build a program with Bazel (GENERATOR or RELAY) and return its path."""
    bazel("build", target)
    return Path(bazel("info", "bazel-bin")) / target.lstrip("/").replace(":", "/")


def bazel(*arguments: str) -> str:
    """Run Bazel on this tree and return what it prints.

    Raises:
        RuntimeError: it failed; the message holds what it said.
    """
    # Its server stays, for the next build. With the tag it would be a process that a test left behind.
    kept = {name: value for name, value in os.environ.items() if name != _HARNESS_TAG}
    env = {"PYTHON_BIN_PATH": str(REPOSITORY / ".venv/bin/python")} | kept
    done = subprocess.run(
        ["bazel", *arguments], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"`bazel {' '.join(arguments)}` failed:\n{done.stderr}")
    return done.stdout.strip()


class Generator:
    """The running load generator.

    Args:
        binary: from `build`.
        ports: of the GCS or of relays; nodes are spread over them in turn.
        options: of the program, see its --help ("_" for "-").
        errors: file for what it says on stderr.
    """

    def __init__(
        self, binary: Path, ports: Sequence[int], errors: Path, **options: str | float
    ) -> None:
        targets = ",".join(f"127.0.0.1:{port}" for port in ports)
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self._errors = errors
        with open(errors, "wb") as stderr:
            self._child = subprocess.Popen(
                [str(binary), f"--targets={targets}", *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        assert self._child.stdout
        self._child.stdout.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what it tells, one event at a time; the last is the result.

        Raises:
            RuntimeError: it failed; the message holds what it said.
        """
        assert self._child.stdout
        for line in self._child.stdout:
            yield json.loads(line)
        if self._child.wait() != 0:
            raise RuntimeError(f"the generator failed: {self._errors.read_text()}")

    def wait_for(self, event: str) -> None:
        """Read events until this one."""
        for told in self.events():
            if told.get("event") == event:
                return
        raise RuntimeError(f"the generator ended before {event}")


class WorkerCalls:
    """Processes of the simulated nodes: long polls and look-ups, while the `with` block runs.

    Args:
        ray: the release of the GCS.
        binary: the program, built; None if there are no processes.
        ports: of the GCS or of relays; processes are spread over them in turn.
        processes: how many there are.
        calls_per_s: look-ups of all of them together.
        options: further ones of the program, see the beginning of worker_calls.cc ("_" for "-").
    """

    def __init__(
        self,
        ray: str,
        binary: Path | None,
        ports: Sequence[int],
        processes: int,
        calls_per_s: float,
        **options: str | int,
    ) -> None:
        self._child: subprocess.Popen[str] | None = None
        if processes == 0:
            return
        if binary is None:
            raise ValueError("processes need the program that plays them")
        targets = ",".join(f"127.0.0.1:{port}" for port in ports)
        told = {"targets": targets, "pubsub": PUBSUB[ray], "processes": processes}
        flags = told | {"calls-per-s": calls_per_s} | options
        self._child = subprocess.Popen(
            [str(binary), *(f"--{name.replace('_', '-')}={flags[name]}" for name in flags)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> WorkerCalls:
        if self._child is not None:
            assert self._child.stdout
            if self._child.stdout.readline() != "ready\n":
                raise RuntimeError("the processes of the nodes did not start")
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()

    def forget(self) -> None:
        """Count from now."""
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.write("\n")
            self._child.stdin.flush()

    def figures(self) -> dict[str, Any]:
        """End the calls; return how many there were, and how long they took. Nothing without processes."""
        if self._child is None:
            return {}
        told, _ = self._child.communicate()
        return dict(json.loads(told))


@contextlib.contextmanager
def raylet_answers(binary: Path | None) -> Iterator[int]:
    """Run the server that answers the GCS for all simulated raylets; yields its port, 0 without one."""
    if binary is None:
        yield 0
        return
    pipe = subprocess.PIPE
    with subprocess.Popen([str(binary)], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout
        try:
            yield int(child.stdout.readline())
        finally:
            child.kill()


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def thread_cpu_s(pid: int) -> dict[str, float]:
    """Return the CPU time of a process by name of thread, in seconds."""
    used: dict[str, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            head, _, rest = (task / "stat").read_text().rpartition(")")
            fields = rest.split()
            name = head.partition("(")[2]
            used[name] = used.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / _TICKS
    return used


def peak_rss_mb(pid: int) -> float:
    """Return the largest resident memory that a process had, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no VmHWM of process {pid}")


def machine_cpu_s() -> float:
    """Return the CPU time that the whole machine has used, in seconds."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS


class CpuMeter:
    """CPU seconds by process between two calls of `read`.

    Args:
        pids: process ids by role; those of one role are summed.
    """

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        self._pids = pids
        self._last = self._now()

    def read(self) -> dict[str, float]:
        """Return what each role and the whole machine used since the last call."""
        last, self._last = self._last, self._now()
        return {f"{role}_cpu_s": round(now - last[role], 2) for role, now in self._last.items()}

    def _now(self) -> dict[str, float]:
        used = {role: sum(map(cpu_s, pids)) for role, pids in self._pids.items()}
        return used | {"machine": machine_cpu_s()}


def interleaved(cells: Sequence[Any], rounds: int) -> Iterator[tuple[int, Any]]:
    """Yield (round, cell) for every cell in every round; every other round goes backwards."""
    for number in range(rounds):
        for cell in cells if number % 2 == 0 else cells[::-1]:
            yield number + 1, cell


def add_common_arguments(add: Callable[..., Any], arms: str) -> None:
    """Add the options that both benchmarks have to an argument parser (its `add_argument`)."""
    add("--rays", default=",".join(RAYS))
    add(
        "--arms",
        default=arms,
        help="of direct, batching, relays-N[-Wms][-hush]; default %(default)s",
    )
    add("--rounds", type=int, default=3)
    add("--relay-binary", type=Path, help="the relay; default: build it")
    add("--relay-arguments", default="", help="for the relay, separated by blanks")
    add("--generator", type=Path, help="the built load generator; default: build it")
    add("--results", type=Path, help="add the runs to this file (JSON lines) and report on all")
    add("--report-only", action="store_true", help="run nothing, report on --results")
    add("--json", action="store_true")


def relay_command(options: Any) -> RelayCommand:
    """Return the relay that the options name."""
    binary = options.relay_binary or build(RELAY)
    return RelayCommand(binary.resolve(), options.relay_arguments.split())


def chosen_arms(options: Any) -> list[Arm]:
    """Return the arms that the options name."""
    return [parse_arm(name) for name in options.arms.split(",")]


def load_runs(path: Path | None) -> list[dict[str, Any]]:
    """Return the runs that a results file holds."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def save_run(path: Path | None, run: Mapping[str, Any]) -> None:
    """Add a run to a results file, if there is one, with when and at which commit it was made."""
    if path is not None:
        made = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": _commit()}
        with open(path, "a") as file:
            file.write(json.dumps({**run, **made}) + "\n")


def _commit() -> str:
    """Return what is checked out; "-dirty" follows where it has been edited since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def grouped(
    runs: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], Any]
) -> dict[Any, list[dict[str, Any]]]:
    """Return the runs by key, keys in order."""
    ordered = sorted(runs, key=key)
    return {name: list(members) for name, members in itertools.groupby(ordered, key)}
