"""Values for Ray's own spilling knobs, chosen from the node's object store and processors.

Ray's defaults suit a large store. In a small one they make jobs wait: docs/internals/out-of-core.md has
the timeline behind each value. A value is chosen only for a knob that the user has not set, for a node
whose storage is of type `filesystem`. It travels to the raylet in the environment, where a value of the
cluster's system configuration overrides it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Lists, as JSON, the values that a node chose, in the environment of its raylet.
CHOSEN_VARIABLE = "_MANTARAY_KNOBS"
PREFIX = "RAY_"

_MIN_SIZE = "min_spilling_size"
_CAP = "max_spilling_file_size_bytes"
_MEBIBYTE = 1 << 20
# The store is written to disk in about this many pieces, so that the first piece makes room early.
_PIECES_OF_A_STORE = 16
_SMALLEST_PIECE_BYTES = 4 * _MEBIBYTE
_LARGEST_PIECE_BYTES = 128 * _MEBIBYTE
# IO workers are Python processes. On few processors, starting them costs more than they bring.
_FEW_PROCESSORS = 4
# A disk with room for so many stores does not run full because objects go beside the store.
_AMPLE_STORES = 4


@dataclass(frozen=True)
class Machine:
    """What the values depend on.

    Attributes:
        store_bytes: the size of the node's object store.
        processors: how many processors this process may use.
        room_bytes: what is free where the raylet puts objects beside a full store; 0 if spilling uses more
            directories than that one.
    """

    store_bytes: int
    processors: int
    room_bytes: int = 0


@dataclass(frozen=True)
class Knob:
    """One of Ray's knobs.

    Attributes:
        name: Ray's name of it, as in its system configuration.
        rays_default: the value that Ray uses if nobody sets one.
        choose: returns the value for a machine.
        doc: what the value is for, in one line.
    """

    name: str
    rays_default: int
    choose: Callable[[Machine], int]
    doc: str

    @property
    def variable(self) -> str:
        """The environment variable from which Ray reads the knob."""
        return PREFIX + self.name


def _piece_bytes(machine: Machine) -> int:
    piece_bytes = machine.store_bytes // _PIECES_OF_A_STORE
    return max(_SMALLEST_PIECE_BYTES, min(piece_bytes, _LARGEST_PIECE_BYTES))


# object_store_full_delay_ms stays Ray's. The grace period runs only while no spill is under way at a retry.
# If retries come faster than a spill fails, a put on a full disk waits for ever instead of failing.
MIN_SPILLING_SIZE = Knob(
    name=_MIN_SIZE,
    rays_default=100 * _MEBIBYTE,
    choose=lambda machine: min(100 * _MEBIBYTE, _piece_bytes(machine) // 4),
    doc="A batch smaller than this waits while another is being spilled.",
)
MAX_SPILLING_FILE_SIZE = Knob(
    name=_CAP,
    rays_default=-1,
    choose=_piece_bytes,
    doc="The largest batch that is spilled at once, and the largest spill file.",
)
MAX_IO_WORKERS = Knob(
    name="max_io_workers",
    rays_default=4,
    choose=lambda machine: 2 if machine.processors <= _FEW_PROCESSORS else 4,
    doc="How many processes spill, and how many restore.",
)
GRACE_PERIOD_S = Knob(
    name="oom_grace_period_s",
    rays_default=2,
    # The wait is for space in the store. Where disk is scarce, waiting may avoid an error. Where it is not,
    # an object beside the store costs less than the wait, which holds up every request behind it.
    choose=lambda machine: 0 if machine.room_bytes >= _AMPLE_STORES * machine.store_bytes else 1,
    doc="How long a create waits in a full store with nothing to spill before it goes to a file.",
)
KNOBS = (GRACE_PERIOD_S, MIN_SPILLING_SIZE, MAX_SPILLING_FILE_SIZE, MAX_IO_WORKERS)


def choose(
    machine: Machine,
    system_config: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    has_cap: bool,
) -> dict[str, int]:
    """Return the values for the knobs that the user has not set, by name.

    Args:
        machine: the node's object store and processors.
        system_config: the cluster's system configuration.
        environ: the environment in which the node starts.
        has_cap: whether this Ray's raylet knows `max_spilling_file_size_bytes`.
    """
    users = {knob.name: _users_value(knob, system_config, environ) for knob in KNOBS}
    chosen = {
        knob.name: knob.choose(machine)
        for knob in KNOBS
        if users[knob.name] is None and (knob.name != _CAP or has_cap)
    }
    return _consistent(chosen, users[_MIN_SIZE], users[_CAP])


def _users_value(
    knob: Knob, system_config: Mapping[str, object], environ: Mapping[str, str]
) -> str | None:
    value = system_config.get(knob.name, environ.get(knob.variable))
    return None if value is None else str(value)


def _consistent(
    chosen: dict[str, int], users_min: str | None, users_cap: str | None
) -> dict[str, int]:
    """Keep the smallest batch below the cap, for a raylet ends at the start otherwise."""
    if users_min is not None and _CAP in chosen:
        # A user who wants batches of a size gets Ray's way of making them.
        del chosen[_CAP]
    if users_cap is not None and _MIN_SIZE in chosen:
        try:
            cap_bytes = int(users_cap)
        except ValueError:
            cap_bytes = 0
        # With no cap at all, or one that Ray will complain of, the smallest batch may have any size.
        if cap_bytes > 0:
            chosen[_MIN_SIZE] = min(chosen[_MIN_SIZE], cap_bytes)
    return chosen


def this_machine(store_bytes: int, directories: Sequence[str]) -> Machine:
    """Return the machine that this process runs on.

    Args:
        store_bytes: the size of the node's object store.
        directories: where the node spills to.
    """
    return Machine(
        store_bytes=store_bytes,
        processors=len(os.sched_getaffinity(0)),
        room_bytes=_room_bytes(directories[0]) if len(directories) == 1 else 0,
    )


def _room_bytes(directory: str) -> int:
    """Return the bytes free in a directory, or where it will be made; 0 if that cannot be found out."""
    try:
        info = os.statvfs(directory)
        return info.f_bavail * info.f_frsize
    except FileNotFoundError:
        parent = os.path.dirname(os.path.abspath(directory))
        return _room_bytes(parent) if parent != directory else 0
    except OSError:
        return 0


@contextmanager
def handing_on(chosen: Mapping[str, int]) -> Iterator[None]:
    """Put chosen values into this process's environment while the raylet is started.

    Args:
        chosen: values by the names of their knobs; none for variables that are set already.
    """
    values = {PREFIX + name: str(value) for name, value in chosen.items()}
    values[CHOSEN_VARIABLE] = json.dumps(dict(chosen))
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text


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
