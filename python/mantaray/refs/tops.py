"""Lists of what a cluster holds: the largest and the oldest objects, sums by holder and by creating line.

Part of `mantaray.refs`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mantaray.refs import why
from mantaray.refs.cluster import Process, Starts

# The digits of the task in an object's id. Ray replaces the first byte in the ids of objects that were put.
_TASK_DIGITS = slice(2, 48)
_JOB_DIGITS = 8
_INDEX_BYTES = 4


@dataclass(frozen=True)
class Listed:
    """One object of a list.

    Attributes:
        object_id: in hex.
        size_bytes: of its value, 0 if no process knows it.
        holders: who holds it, the owner first.
        call_site: where it was made; empty when Ray does not record that.
        made_after_s: when the task that made it began, as a Unix time; None unless that was asked for.
    """

    object_id: str
    size_bytes: int
    holders: tuple[Process, ...]
    call_site: str
    made_after_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "object_id": self.object_id,
            "size_bytes": self.size_bytes,
            "holders": [str(process) for process in self.holders],
            "call_site": self.call_site,
            "made_after": self.made_after_s,
        }


@dataclass(frozen=True)
class Sum:
    """The objects of one holder, or of one line.

    Attributes:
        name: the process or the line; empty for references whose line Ray does not record.
        objects: how many there are.
        size_bytes: of their values together, as far as a process knows it.
        holders: how many processes use at least one of them.
    """

    name: str
    objects: int
    size_bytes: int
    holders: int

    def to_json(self, by: str) -> dict[str, Any]:
        """Return everything as JSON can hold it.

        Args:
            by: the key for the name, "holder" or "line".
        """
        return {
            by: self.name,
            "objects": self.objects,
            "size_bytes": self.size_bytes,
            "holders": self.holders,
        }


def largest(processes: Iterable[Process], limit: int) -> list[Listed]:
    """Return the largest objects that processes hold, the largest first.

    Args:
        processes: all that were asked.
        limit: how many to return at most.
    """
    found = _listed(processes, None)
    found.sort(key=lambda each: (-each.size_bytes, each.object_id))
    return found[:limit]


def oldest(processes: Iterable[Process], starts: Starts, limit: int) -> list[Listed]:
    """Return the objects that were made first, the oldest first.

    Ray does not record when an object was made. Its id names the task that made it and its number in that
    task. So objects are sorted by the start of their task, and objects of one task by their number.

    Args:
        processes: all that were asked.
        starts: when tasks and jobs began.
        limit: how many to return at most.
    """
    found = _listed(processes, starts)
    found.sort(key=lambda each: (each.made_after_s or 0.0, *_place(each.object_id)))
    return found[:limit]


def by_holder(processes: Iterable[Process], limit: int) -> list[Sum]:
    """Return the processes that use the most bytes, the greatest first; each counts all that it uses."""
    used: dict[str, dict[str, int]] = defaultdict(dict)
    for object_id, holders in why.by_object(processes).items():
        size = why.size_bytes(holders)
        for process, held in holders:
            if why.reasons(held):
                used[str(process)][object_id] = size
    found = [Sum(name, len(sizes), sum(sizes.values()), 1) for name, sizes in used.items()]
    return _greatest(found, limit)


def by_line(processes: Iterable[Process], limit: int) -> list[Sum]:
    """Return the lines whose objects take the most bytes, the greatest first."""
    sizes: dict[str, list[int]] = defaultdict(list)
    users: dict[str, set[str]] = defaultdict(set)
    for holders in why.by_object(processes).values():
        # The owner's line made the object. A borrower's line made a reference to it.
        holders.sort(key=lambda holder: not holder[1].owned)
        line = why.call_site(holders[:1])
        sizes[line].append(why.size_bytes(holders))
        users[line] |= {process.worker_id for process, held in holders if why.reasons(held)}
    found = [Sum(line, len(each), sum(each), len(users[line])) for line, each in sizes.items()]
    return _greatest(found, limit)


def _greatest(found: list[Sum], limit: int) -> list[Sum]:
    return sorted(found, key=lambda each: (-each.size_bytes, -each.objects, each.name))[:limit]


def _listed(processes: Iterable[Process], starts: Starts | None) -> list[Listed]:
    found = []
    tasks_s = {} if starts is None else {id_[2:]: at for id_, at in starts.tasks_s.items()}
    for object_id, holders in why.by_object(processes).items():
        holders.sort(key=lambda holder: not holder[1].owned)
        by_whom = tuple(process for process, _ in holders)
        made_after_s = None if starts is None else _made_after_s(object_id, tasks_s, starts.jobs_s)
        site = why.call_site(holders)
        found.append(Listed(object_id, why.size_bytes(holders), by_whom, site, made_after_s))
    return found


def _made_after_s(
    object_id: str, tasks_s: Mapping[str, float], jobs_s: Mapping[str, float]
) -> float | None:
    """Return when the task that made an object began, or its job if Ray has forgotten the task."""
    task = object_id[_TASK_DIGITS]
    return tasks_s.get(task, jobs_s.get(task[-_JOB_DIGITS:]))


def _place(object_id: str) -> tuple[str, int]:
    """Return the task that made an object, and the object's number in it."""
    number = bytes.fromhex(object_id)[-_INDEX_BYTES:]
    return object_id[_TASK_DIGITS], int.from_bytes(number, "little")
