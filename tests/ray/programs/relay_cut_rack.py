"""Two racks whose network to the head is cut: one node joined the head, the other one a relay in its rack.

Arguments: the `ray` and the `mantaray` command, and a directory for logs. Everything runs in network
namespaces of this program's own. Prints after how many seconds each raylet ended during the cut (null:
it did not), whether each has ended after the network came back, and which nodes the GCS takes for alive.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

HEAD = "10.56.0.1"
PORT = 6400
RELAY_PORT = 6379
# The rack behind a relay has ended by then, and a little later the other one may have.
CUT_AT_MOST_S = 240.0
CUT_AFTER_FIRST_S = 15.0
PATIENCE_S = 240.0
ray, mantaray, logs = sys.argv[1], sys.argv[2], Path(sys.argv[3])


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


def start(name: str, *command: str) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to a file."""
    with open(logs / f"{name}.log", "wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
    """Wait until the condition holds; return whether it did."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class Rack:
    """A network namespace that one link connects with the head.

    Args:
        number: of the rack, from 1.
    """

    def __init__(self, number: int) -> None:
        self.address = f"10.56.{number}.2"
        self._link = f"head{number}"
        far, gateway = f"rack{number}", f"10.56.{number}.1"
        holder = subprocess.Popen(
            ["unshare", "--net", "--kill-child", "--fork", "sleep", "infinity"]
        )
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        until(lambda: bool(children.read_text().split()))
        (child,) = children.read_text().split()
        # It is in its namespace when it has become another program.
        until(lambda: Path(f"/proc/{child}/comm").read_text().strip() == "sleep")
        self._inside = ("nsenter", f"--net=/proc/{child}/ns/net")
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", far)
        run("ip", "link", "set", far, "netns", child)
        run("ip", "addr", "add", f"{gateway}/24", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        run(*self._inside, "ip", "link", "set", "lo", "up")
        run(*self._inside, "ip", "addr", "add", f"{self.address}/24", "dev", far)
        run(*self._inside, "ip", "link", "set", far, "up")
        run(*self._inside, "ip", "route", "add", "default", "via", gateway)

    def set_link(self, state: str) -> None:
        """Cut the rack off ("down"), or connect it ("up"). Nobody is told; packets vanish."""
        run("ip", "link", "set", self._link, state)

    def start(self, name: str, *command: str) -> None:
        """Start a command in the rack."""
        start(name, *self._inside, *command)

    def join(self, address: str) -> psutil.Process:
        """Start a node of Ray that joins at this address; return its raylet."""
        self.start(f"node-{self.address}", *node_command(self.address, f"--address={address}"))
        assert until(lambda: self.address in alive()), "the node did not join"
        mark = f"--node_ip_address={self.address}"
        return next(
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "raylet" and mark in process.info["cmdline"]
        )


def node_command(address: str, *arguments: str) -> list[str]:
    """Return the command that starts a node."""
    return [
        *(ray, "start", *arguments, f"--node-ip-address={address}", "--num-cpus=1"),
        *("--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0"),
        "--block",
    ]


def alive() -> list[str]:
    """Return the addresses of the nodes that the GCS takes for alive."""
    from ray._private.state import GlobalState
    from ray._raylet import GcsClientOptions

    nodes = GlobalState()
    nodes._initialize_global_state(
        GcsClientOptions.create(
            f"{HEAD}:{PORT}", None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
        )
    )
    return sorted(node["NodeManagerAddress"] for node in nodes.node_table() if node["Alive"])


def is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def cut(racks: dict[str, Rack], raylets: dict[str, psutil.Process]) -> dict[str, float | None]:
    """Cut all racks off until a while after the rack behind the relay has ended; return when each did."""
    ended_s: dict[str, float | None] = dict.fromkeys(raylets)
    for rack in racks.values():
        rack.set_link("down")
    began = time.monotonic()

    def look() -> bool:
        for name, process in raylets.items():
            if ended_s[name] is None and is_gone(process):
                ended_s[name] = time.monotonic() - began
        return None not in ended_s.values()

    until(lambda: look() or ended_s["behind"] is not None, CUT_AT_MOST_S)
    until(look, CUT_AFTER_FIRST_S)
    for rack in racks.values():
        rack.set_link("up")
    return ended_s


def main() -> None:
    """Build the racks, cut them off, and print what became of their nodes."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "addr", "add", f"{HEAD}/32", "dev", "lo")
    arguments = ("--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={logs}/t")
    start("head", *node_command(HEAD, *arguments))
    assert until(lambda: "--block" in (logs / "head.log").read_text()), "there is no head"
    racks = {"direct": Rack(1), "behind": Rack(2)}
    relay = racks["behind"]
    relay.start(
        "relay",
        *(mantaray, "relay", f"--upstream={HEAD}:{PORT}", f"--listen=0.0.0.0:{RELAY_PORT}"),
    )
    assert until(lambda: "relaying" in (logs / "relay.log").read_text()), "there is no relay"
    raylets = {
        "direct": racks["direct"].join(f"{HEAD}:{PORT}"),
        "behind": relay.join(f"{relay.address}:{RELAY_PORT}"),
    }
    seen: dict[str, object] = {"ended_s": cut(racks, raylets)}
    until(lambda: all(is_gone(process) for process in raylets.values()))
    seen["ended"] = {name: is_gone(process) for name, process in raylets.items()}
    until(lambda: alive() == [HEAD])
    seen["alive"] = alive()
    seen["relay"] = (logs / "relay.log").read_text().splitlines()[-20:]
    print(json.dumps(seen))
    sys.stdout.flush()
    # With the first process of a pid namespace everything in it ends.
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        apart = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
        os.execvp("unshare", [*apart, sys.executable, *sys.argv, "apart"])
    main()
