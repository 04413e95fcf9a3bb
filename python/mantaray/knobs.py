"""Values for Ray's own spilling knobs, chosen from the node's processors, object store and disk.

A job that does not fit into the object store waits for Ray's own timers: docs/internals/out-of-core.md has
the timeline. A value is chosen only for a knob that the user has not set, for a node
whose storage is of type `filesystem`. It travels to the raylet in the environment, where a value of the
cluster's system configuration overrides it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mantaray.helpers import environment_with

# Lists, as JSON, the values that a node chose, in the environment of its raylet.
CHOSEN_VARIABLE = "_MANTARAY_KNOBS"
PREFIX = "RAY_"

# IO workers are Python processes. On few processors, starting more of them costs more than they gain.
_FEW_PROCESSORS = 4
# A disk is ample for a store if its free space is at least this many times the size of the store.
_AMPLE_TIMES = 4
# A spill frees no memory before all of it is written, so one spill takes only a small part of the store.
_BATCHES_IN_STORE = 8
_MOST_BATCH_BYTES = 128 << 20


@dataclass(frozen=True)
class Machine:
    """What the values depend on.

    Attributes:
        processors: how many the node may use.
        store_bytes: the size of the node's object store.
        disk_bytes: what is free on the disk that takes the objects for which the store has no room.
    """

    processors: int
    store_bytes: int
    disk_bytes: int

    @property
    def has_ample_disk(self) -> bool:
        """Whether the disk can take many times what the store holds."""
        return self.disk_bytes >= _AMPLE_TIMES * self.store_bytes

    @property
    def batch_bytes(self) -> int:
        """How much one spill writes at most, unless it is a single object."""
        return min(self.store_bytes // _BATCHES_IN_STORE, _MOST_BATCH_BYTES)


@dataclass(frozen=True)
class Knob:
    """One of Ray's knobs.

    Attributes:
        name: Ray's name of it, as in its system configuration.
        rays_default: the value that Ray uses if nobody sets one.
        choose: returns the value for a machine, or None to leave Ray's value.
        rule: how the value is chosen, in a few words.
        doc: what the value is for, in one line.
        only_with: the name of another knob. Mantaray chooses both or neither.
    """

    name: str
    rays_default: int
    choose: Callable[[Machine], int | None]
    rule: str
    doc: str
    only_with: str = ""

    @property
    def variable(self) -> str:
        """The environment variable from which Ray reads the knob."""
        return PREFIX + self.name


# A grace period or smaller batches have a price on a full disk, where every spill fails: a put then waits
# until no spill is under way at the moment of a retry, or fails at once if the grace period is 0. So a node
# whose disk is small for its store keeps a grace period and Ray's batches.
GRACE_PERIOD_S = Knob(
    name="oom_grace_period_s",
    rays_default=2,
    choose=lambda machine: 0 if machine.has_ample_disk else 1,
    rule="0; 1 on a small disk",
    doc="How long a create waits in a full store with nothing to spill before it goes to a file.",
)
MAX_IO_WORKERS = Knob(
    name="max_io_workers",
    rays_default=4,
    choose=lambda machine: 2 if machine.processors <= _FEW_PROCESSORS else 4,
    rule=f"2; 4 above {_FEW_PROCESSORS} processors",
    doc="How many processes spill, and how many restore.",
)
# Ray refuses a bound below the smallest spill, so they are chosen together or not at all.
MIN_SPILLING_BYTES = Knob(
    name="min_spilling_size",
    rays_default=100 << 20,
    choose=lambda machine: machine.batch_bytes // 2 if machine.has_ample_disk else None,
    rule="half the bound",
    doc="A smaller spill waits while another is under way.",
    only_with="max_spilling_file_size_bytes",
)
MAX_SPILLING_BYTES = Knob(
    name="max_spilling_file_size_bytes",
    rays_default=-1,
    choose=lambda machine: machine.batch_bytes if machine.has_ample_disk else None,
    rule="1/8 of the store, up to 128 MiB",
    doc="The most that one spill writes (Ray 2.54 and later).",
    only_with="min_spilling_size",
)
KNOBS = (GRACE_PERIOD_S, MAX_IO_WORKERS, MIN_SPILLING_BYTES, MAX_SPILLING_BYTES)


def left_to_mantaray(system_config: Mapping[str, object], environ: Mapping[str, str]) -> list[Knob]:
    """Return the knobs for which Mantaray chooses a value, because the user has set none.

    Args:
        system_config: the cluster's system configuration.
        environ: the environment in which the node starts.
    """

    def is_users(name: str) -> bool:
        return name in system_config or PREFIX + name in environ

    return [knob for knob in KNOBS if not is_users(knob.name) and not is_users(knob.only_with)]


def choose(
    machine: Machine, system_config: Mapping[str, object], environ: Mapping[str, str]
) -> dict[str, int]:
    """Return the values for the knobs that the user has not set, by name.

    Args:
        machine: the node's processors, object store and disk.
        system_config: the cluster's system configuration.
        environ: the environment in which the node starts.
    """
    values = {knob.name: knob.choose(machine) for knob in left_to_mantaray(system_config, environ)}
    return {name: value for name, value in values.items() if value is not None}


def this_machine(store_bytes: int, directory: str) -> Machine:
    """Return the machine that this process runs on.

    Args:
        store_bytes: the size of the node's object store.
        directory: where the node spills to. A disk that cannot be looked at counts as full.
    """
    try:
        info = os.statvfs(directory)
        disk_bytes = info.f_bavail * info.f_frsize
    except OSError:
        disk_bytes = 0
    return Machine(len(os.sched_getaffinity(0)), store_bytes, disk_bytes)


def handing_on(chosen: Mapping[str, int]) -> AbstractContextManager[None]:
    """Put chosen values into this process's environment while the raylet is started.

    Args:
        chosen: values by the names of their knobs; none for variables that are set already.
    """
    values = {PREFIX + name: str(value) for name, value in chosen.items()}
    return environment_with({**values, CHOSEN_VARIABLE: json.dumps(dict(chosen))})


def chosen_in(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the values that Mantaray chose for the node of a process, by name.

    Args:
        environ: the environment of the raylet or of one of its workers.
    """
    try:
        told = json.loads(environ.get(CHOSEN_VARIABLE) or "{}")
        return {str(name): int(value) for name, value in told.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def as_set_by_users(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the values that Mantaray chose for an enclosing node.

    A worker inherits the environment of its raylet. A node that such a worker starts must not take the
    outer node's values for the user's.

    Args:
        environ: the environment of this process.
    """
    outer = chosen_in(environ)
    return {
        name: text
        for name, text in environ.items()
        if not (
            name.startswith(PREFIX)
            and name[len(PREFIX) :] in outer
            and text == str(outer[name[len(PREFIX) :]])
        )
    }


def running_nodes(proc: str = "/proc") -> dict[int, dict[str, str]]:
    """Return the environment of each raylet on this machine, by process id.

    Processes of other users count if this process may read their state.

    Args:
        proc: where the kernel shows processes.
    """
    found = {}
    for process in Path(proc).glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "raylet":
                found[int(process.name)] = _environment((process / "environ").read_bytes())
        except OSError:
            continue
    return dict(sorted(found.items()))


def _environment(text: bytes) -> dict[str, str]:
    pairs = (entry.partition(b"=") for entry in text.split(b"\0") if b"=" in entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
