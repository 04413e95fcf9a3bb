"""Values for Ray's own spilling knobs, chosen from the number of processors.

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

# IO workers are Python processes. On few processors, starting them costs more than they bring.
_FEW_PROCESSORS = 4


@dataclass(frozen=True)
class Knob:
    """One of Ray's knobs.

    Attributes:
        name: Ray's name of it, as in its system configuration.
        rays_default: the value that Ray uses if nobody sets one.
        choose: returns the value for a number of processors.
        doc: what the value is for, in one line.
    """

    name: str
    rays_default: int
    choose: Callable[[int], int]
    doc: str

    @property
    def variable(self) -> str:
        """The environment variable from which Ray reads the knob."""
        return PREFIX + self.name


# Ray's other knobs of spilling stay as they are. The grace period runs only while no spill is under way
# when the store tries again. On a full disk every spill fails. If retries are frequent
# (object_store_full_delay_ms), or batches so small that several follow one another (min_spilling_size,
# max_spilling_file_size_bytes), one is always under way, and a put waits for ever instead of failing.
GRACE_PERIOD_S = Knob(
    name="oom_grace_period_s",
    rays_default=2,
    choose=lambda processors: 1,
    doc="How long a create waits in a full store with nothing to spill before it goes to a file.",
)
MAX_IO_WORKERS = Knob(
    name="max_io_workers",
    rays_default=4,
    choose=lambda processors: 2 if processors <= _FEW_PROCESSORS else 4,
    doc="How many processes spill, and how many restore.",
)
KNOBS = (GRACE_PERIOD_S, MAX_IO_WORKERS)


def choose(
    processors: int, system_config: Mapping[str, object], environ: Mapping[str, str]
) -> dict[str, int]:
    """Return the values for the knobs that the user has not set, by name.

    Args:
        processors: how many the node may use.
        system_config: the cluster's system configuration.
        environ: the environment in which the node starts.
    """
    return {
        knob.name: knob.choose(processors)
        for knob in KNOBS
        if knob.name not in system_config and knob.variable not in environ
    }


def processors_of_this_process() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


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

    Processes of other users count as far as this one may look at them.

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
