"""Finds objects that a single process has kept for long, as a leak would.

Part of `mantaray.refs`. Ray does not know how old an object is, so the caller asks the cluster twice.
Objects that both answers name are at least as old as the time between the two questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mantaray.refs import why
from mantaray.refs.cluster import Held, Process


@dataclass(frozen=True)
class Leak:
    """Objects that one process keeps, made by one line.

    Attributes:
        holder: the only process that uses them.
        call_site: the line that made the references; empty unless Ray records it.
        objects: how many of them both looks saw.
        size_bytes: of their values together, as far as a process knows it.
        grown: how many more objects of this line the holder had at the second look than at the first.
        example: the id of one of them, in hex.
    """

    holder: Process
    call_site: str
    objects: int
    size_bytes: int
    grown: int
    example: str

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "holder": str(self.holder),
            "pid": self.holder.pid,
            "actor": self.holder.name or None,
            "call_site": self.call_site,
            "objects": self.objects,
            "size_bytes": self.size_bytes,
            "grown": self.grown,
            "example": self.example,
        }


def find(before: Sequence[Process], after: Sequence[Process]) -> list[Leak]:
    """Return what single processes kept between two looks, the most bytes first.

    An object counts if exactly one process uses it, for nothing but references: no task waits for it, and
    it exists.

    Args:
        before: what the processes answered at the first look.
        after: what they answered at the second look.
    """
    old = _groups(before)
    found = []
    for key, objects in _groups(after).items():
        kept = objects.keys() & old.get(key, {}).keys()
        if not kept:
            continue
        sizes = {object_id: objects[object_id][1] for object_id in kept}
        # The largest object, so that the example is the same each time.
        example = max(kept, key=lambda object_id: (sizes[object_id], object_id))
        found.append(
            Leak(
                holder=objects[example][0],
                call_site=key[1],
                objects=len(kept),
                size_bytes=sum(sizes.values()),
                grown=len(objects) - len(old[key]),
                example=example,
            )
        )
    return sorted(found, key=lambda leak: (-leak.size_bytes, -leak.objects, leak.example))


def _groups(processes: Iterable[Process]) -> dict[tuple[str, str], dict[str, tuple[Process, int]]]:
    """Return (worker id, line) -> object id -> (its only user, bytes)."""
    groups: dict[tuple[str, str], dict[str, tuple[Process, int]]] = defaultdict(dict)
    for object_id, holders in why.by_object(processes).items():
        # Its only user comes first, if there is only one.
        holders.sort(key=lambda holder: not _uses(holder[1]))
        uses = sum(_uses(held) for _, held in holders)
        if uses != 1 or not all(_is_idle(held) for _, held in holders):
            continue
        user = holders[0][0]
        key = (user.worker_id, why.call_site(holders))
        groups[key][object_id] = (user, why.size_bytes(holders))
    return groups


def _uses(held: Held) -> bool:
    return bool(held.local_refs or held.contained_in)


def _is_idle(held: Held) -> bool:
    """Whether no task waits for the object, and it exists."""
    return not held.task_refs and why.is_ready(held)
