"""Who holds an object and why it is not freed.

Part of `mantaray.refs`. `mantaray.refs.cluster` asks the processes; this module evaluates the answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mantaray.refs.cluster import Held, Process
from mantaray.refs.paths import Paths

Holders = list[tuple[Process, Held]]

# The words for a process without reasons. An owner without uses of its own waits for the borrowers.
WAITS = "no use of its own; it waits for the others"
NO_USE = "no use of it"


@dataclass(frozen=True)
class Why:
    """The holders of one object.

    Attributes:
        object_id: in hex.
        owner: the process that owns it; None if no process says so.
        holders: the processes that know it, the owner first, and what each knows.
        silent: the processes that did not answer.
        paths: the variables that hold it in each process that was asked for them, by its worker's id.
    """

    object_id: str
    owner: Process | None
    holders: tuple[tuple[Process, Held], ...]
    silent: tuple[Process, ...]
    paths: Mapping[str, Paths] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int | None:
        """The size of the value, if a process knows it."""
        return next((held.size_bytes for _, held in self.holders if held.size_bytes), None)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "object_id": self.object_id,
            "size_bytes": self.size_bytes,
            "owner": None if self.owner is None else _about(self.owner),
            "holders": [
                {
                    **_about(process),
                    "owner": held.owned,
                    **asdict(held),
                    "why": reasons(held),
                    "variables": self._variables(process),
                }
                for process, held in self.holders
            ],
            "silent": [{**_about(process), "problem": process.problem} for process in self.silent],
        }

    def _variables(self, process: Process) -> dict[str, Any] | None:
        told = self.paths.get(process.worker_id)
        return None if told is None else asdict(told)


def explain(object_id: str, processes: Sequence[Process]) -> Why:
    """Find the holders of an object.

    Args:
        object_id: in hex.
        processes: all that were asked.
    """
    holders = [
        (process, held)
        for process in processes
        for held in process.held
        if held.object_id == object_id
    ]
    holders.sort(key=lambda holder: (not holder[1].owned, holder[0].address, holder[0].pid))
    owner = next((process for process, held in holders if held.owned), None)
    silent = tuple(process for process in processes if process.problem is not None)
    return Why(object_id, owner, tuple(holders), silent)


def reasons(held: Held) -> list[str]:
    """Return why a process keeps an object, in words; empty when it does not keep it."""
    found = []
    if held.local_refs:
        found.append(_count(held.local_refs, "local reference") + _made_at(held))
    if held.task_refs:
        found.append(f"argument of {_count(held.task_refs, 'task')} that it submitted")
    found += [f"a reference to it is inside its object {outer}" for outer in held.contained_in]
    if held.pinned:
        found.append("it uses the value in the object store")
    if not is_ready(held):
        found.append(f"the task that makes it is {held.task_status}")
    return found


def text(why: Why) -> str:
    """Return the holders of an object as text that reads from top to bottom."""
    size = "size not known" if why.size_bytes is None else f"{why.size_bytes:,} bytes"
    lines = [f"object {why.object_id}, {size}"]
    if why.owner is None and why.holders:
        lines.append("no process that answered owns it")
    for process, held in why.holders:
        lines.append(f"{'owned by' if held.owned else 'held by'} {process}")
        said = reasons(held) or [WAITS if held.owned else NO_USE]
        lines += [f"  {reason}" for reason in said]
        if process.worker_id in why.paths:
            lines += [f"    {line}" for line in variables(why.paths[process.worker_id], held)]
    lines += [f"not asked: {process}: {process.problem}" for process in why.silent]
    return "\n".join(lines)


def variables(told: Paths, held: Held) -> list[str]:
    """Return which variables of a process hold an object, one on each line.

    Args:
        told: what the process answered about its Python references.
        held: what Ray counts there.
    """
    if told.problem is not None:
        return [f"its variables are not known: {told.problem}"]
    lines = list(told.paths)
    more = told.references - len(told.paths)
    if more > 0:
        lines.append(f"and {_count(more, 'more Python reference')}")
    hidden = held.local_refs - told.references
    if hidden > 0 and not told.cut_off:
        lines.append(
            f"{_count(hidden, 'reference')} of Ray's own: a task under way, or a reference that was pickled"
            " by hand or with a function, which Ray keeps"
        )
    if told.cut_off:
        lines.append("the search was cut off; allow more time with --path-timeout-s")
    return lines


def by_object(processes: Iterable[Process]) -> dict[str, Holders]:
    """Return who holds each object and what each knows of it, by the object's id."""
    found: dict[str, Holders] = defaultdict(list)
    for process in processes:
        for held in process.held:
            found[held.object_id].append((process, held))
    return found


def size_bytes(holders: Holders) -> int:
    """Return the size of an object, 0 if no holder knows it."""
    return max(held.size_bytes or 0 for _, held in holders)


def call_site(holders: Holders) -> str:
    """Return where the first holder that knows it made its reference; empty if none does."""
    return next((site for _, held in holders if (site := _site(held))), "")


def is_ready(held: Held) -> bool:
    """Whether the object exists, as far as this process knows."""
    return not held.owned or held.task_status in ("FINISHED", "FAILED")


def _about(process: Process) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "address": process.address,
        "kind": process.kind,
        "actor": process.name or None,
        "worker_id": process.worker_id,
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _made_at(held: Held) -> str:
    site = _site(held)
    return f", made at {site}" if site else ""


def _site(held: Held) -> str:
    """Return where a reference was made; Ray writes "disabled" when it does not record that."""
    return "" if "disabled" in held.call_site else " ".join(held.call_site.split())
