"""What the smoke sees of nodes and owners beside the work of its driver: one function a patch."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from .cluster import Cluster
from .rays import REPOSITORY, RayEnv

RACE = REPOSITORY / "tests" / "ray" / "programs" / "refcount_race.py"
GRACE_PERIOD = "RAY_oom_grace_period_s"
RELEASED_TWICE = RACE.with_name("refs_released_twice.py")
_DAY_S = 86_400.0
# A node whose driver died takes a while to end.
_LEFT_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Ending:
    """How a process ended in which something came twice for Ray's reference counter.

    Attributes:
        lived: whether it went on.
        counts_are_right: whether it held each object as long as somebody used it, and nothing at the end.
        end: in words.
    """

    lived: bool
    counts_are_right: bool
    end: str


NOT_TRIED = Ending(False, False, "not tried")


def deliver_notices_twice(env: RayEnv, guarded: bool) -> Ending:
    """Run an owner to which each notice about a borrower comes twice.

    Args:
        env: an environment with Mantaray.
        guarded: whether the patches of Ray's reference counter are on.
    """
    patches = {} if guarded else {"MANTARAY_PATCHES": "-refcount,-nesting"}
    ended = env.run(RACE, ["doubled"], patches, left_timeout_s=_LEFT_TIMEOUT_S).told
    if ended["status"] != 0:
        return Ending(False, False, f"died: {ended['check'] or ended['status']}")
    told = ended["told"]
    orders = [seen for seen in told.values() if isinstance(seen, dict) and "noticed" in seen]
    right = len(orders) == 3 and all(all(seen.values()) for seen in orders) and told["empty"]
    return Ending(True, right, "lived" if right else "lived with wrong counts")


def release_twice(env: RayEnv, guarded: bool) -> Ending:
    """Run a borrower in which an object with references in it goes out of scope twice.

    Args:
        env: an environment with Mantaray.
        guarded: whether the patches of Ray's reference counter are on.
    """
    patches = {} if guarded else {"MANTARAY_PATCHES": "-refcount,-nesting"}
    told = env.run(RELEASED_TWICE, ["borrowed-again"], patches, left_timeout_s=_LEFT_TIMEOUT_S).told
    if told["died"]:
        return Ending(False, False, "died")
    right = bool(told["read"] and told["gone"] and told["borrower"]["left"] == 0)
    return Ending(True, right, "lived" if right else "lived with wrong counts")


def leave_old_log(cluster: Cluster) -> Path:
    """Write a log on the head's node that nobody has open and that is two days old; return it."""
    raylet = psutil.Process(raylet_of(cluster))
    (logs,) = {
        Path(file.path).parent for file in raylet.open_files() if "/logs/raylet" in file.path
    }
    # Where Ray puts the logs of dead workers. It follows and moves those that lie beside the directory.
    (logs / "old").mkdir(exist_ok=True)
    log = logs / "old" / "worker-0123456789abcdef-01000000-1.out"
    log.write_text("the last words of a worker\n")
    changed_at_s = time.time() - 2 * _DAY_S
    os.utime(log, (changed_at_s, changed_at_s))
    return log


def raylet_of(cluster: Cluster, node: int = 0) -> int:
    """Return the process id of a node's raylet; 0 is the head."""
    parent = cluster.nodes[node].process.pid
    (raylet,) = [each for each in cluster.processes("raylet") if each.ppid() == parent]
    return raylet.pid


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment with which a process was started."""
    return psutil.Process(pid).environ()


def ask_doctor(cluster: Cluster) -> tuple[int, int]:
    """Run `mantaray doctor --cluster`; return its exit status and how many nodes it lists."""
    done = subprocess.run(
        [cluster.env.bin("mantaray"), "doctor", "--cluster", "--timeout=240", "--json"],
        env=cluster.env.environment(**cluster.variables, RAY_ADDRESS=cluster.address),
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    return done.returncode, len(json.loads(done.stdout)["nodes"])
