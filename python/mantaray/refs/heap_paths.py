"""Finds the paths that lead to an object reference in this process.

Part of `mantaray.refs`. A path begins at a global of a module, at a local variable of a running function,
or at an actor. It leads over attributes, elements and closures to a Python `ObjectRef`, as `objgraph` would
show it. The search goes upward from the references, one level after another, so it finds shortest paths.

It runs in a copy of the process; see `mantaray.refs.forked` for what that forbids.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import threading
import time
from types import FrameType
from typing import Any

from mantaray.refs import holding

MAX_PATHS = 5
_MAX_LEVELS = 30
# How many objects of a level are followed upward. Each costs a comparison with every link of the heap.
_MAX_BREADTH = 48
_CHUNK = 4_096
_UNTRACKABLE = (dict, tuple)


class HeapPaths:
    """Finds the paths to one object's references.

    Args:
        ref_type: Ray's `ObjectRef`.
        object_id: of the object.
        known: further objects where paths begin, such as actors, each with the words for it.
        time_s: after how many seconds the search is cut off.
    """

    def __init__(
        self, ref_type: type[Any], object_id: bytes, known: list[tuple[str, Any]], time_s: float
    ) -> None:
        self._ref_type = ref_type
        self._object_id = object_id
        self._known = {id(each): words for words, each in known}
        self._time_s = time_s
        # Made before the fork, because a copy must not take the lock of the list of threads.
        self._threads = {thread.ident: thread.name for thread in threading.enumerate()}
        self._deadline_s = 0.0
        self._cut_off = False
        self._own: set[int] = set()
        self._modules: dict[int, str] = {}
        # Dictionaries and tuples that the collector does not track, keyed by their member on the path.
        self._untracked: dict[int, list[Any]] = {}
        self._locals: dict[int, tuple[FrameType, str, str]] = {}
        self._kept: list[Any] = []

    def find(self) -> bytes:
        """Return the paths as JSON, as the listener sends them. Call it in a copy of the process."""
        self._deadline_s = time.monotonic() + self._time_s
        # Frozen objects would not be listed. Only the copy unfreezes them; the process keeps them frozen.
        gc.unfreeze()
        self._own = {
            id(self),
            id(vars(self)),
            id(self._untracked),
            id(self._locals),
            id(self._kept),
        }
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            self._own.add(id(frame))
            frame = frame.f_back
        self._note_roots()
        found = self._references()
        # By index, because a slice of the list would be one more holder.
        paths = [self._path_to(found[place]) for place in range(min(len(found), MAX_PATHS))]
        told = {"references": len(found), "paths": paths, "cut_off": self._cut_off}
        return json.dumps(told).encode()

    def _note_roots(self) -> None:
        """Note the globals of modules, the actors, and the local variables of all other threads."""
        for name, module in list(sys.modules.items()):
            globals_of = holding.attributes(module)
            if globals_of is not None:
                self._modules.setdefault(id(globals_of), name)
        here = threading.get_ident()
        for ident, frame in sys._current_frames().items():
            if ident != here:
                self._note_frames(frame, self._threads.get(ident, str(ident)))

    def _note_frames(self, frame: FrameType | None, thread: str) -> None:
        while frame is not None:
            # The local variables of a module's top-level code are its globals.
            names = frame.f_locals
            if names is not frame.f_globals:
                self._own.add(id(names))
                self._kept.append(names)
                for name, value in names.items():
                    self._locals.setdefault(id(value), (frame, name, thread))
            frame = frame.f_back

    def _references(self) -> list[Any]:
        """Return every Python reference to the object."""
        found: dict[int, Any] = {}
        for names in self._kept:
            found.update((id(each), each) for each in names.values() if self._is_wanted(each))
        objects = gc.get_objects()
        ref_type = self._ref_type
        for start in range(0, len(objects), _CHUNK):
            for each in gc.get_referents(*objects[start : start + _CHUNK]):
                if type(each) is ref_type:
                    if self._is_wanted(each):
                        found[id(each)] = each
                elif type(each) in _UNTRACKABLE and not gc.is_tracked(each):
                    self._look_into(each, found)
            if self._is_late():
                break
        references = list(found.values())
        self._own |= {id(found), id(references)}
        self._kept += [found, references]
        return references

    def _look_into(self, holder: Any, found: dict[int, Any]) -> bool:
        """Look for references in what the collector does not track; return whether there are any.

        The collector does not track a dictionary or tuple that contains only numbers, text, and references
        of an older Ray.
        """
        leads = False
        for each in gc.get_referents(holder):
            if type(each) is self._ref_type:
                held = self._is_wanted(each)
                if held:
                    found[id(each)] = each
            else:
                held = (
                    type(each) in _UNTRACKABLE
                    and not gc.is_tracked(each)
                    and self._look_into(each, found)
                )
            if held:
                leads = True
                holders = self._untracked.setdefault(id(each), [])
                if not any(known is holder for known in holders):
                    holders.append(holder)
        return leads

    def _is_wanted(self, each: Any) -> bool:
        return type(each) is self._ref_type and each.binary() == self._object_id

    def _is_late(self) -> bool:
        self._cut_off = self._cut_off or time.monotonic() > self._deadline_s
        return self._cut_off

    def _path_to(self, reference: Any) -> str:
        """Return a path to one reference in words."""
        # By identity: the objects seen so far, and what each of them holds on the way to the reference.
        seen: dict[int, Any] = {id(reference): reference}
        below: dict[int, int] = {}
        own = self._own | {id(seen), id(sys._getframe()), *map(id, self._untracked.values())}
        level = [reference]
        closing: Any = None
        for _ in range(_MAX_LEVELS):
            for each in level:
                nodes = _down(seen, below, each)
                if (begun := self._from_root(nodes)) is not None:
                    return begun
            # Only lists of this search hold these objects in addition.
            del nodes
            if self._is_late():
                break
            above: list[Any] = []
            # Passed on as it is, so that no other tuple holds these objects.
            asked = tuple(level)
            untracked = [each for held in asked for each in self._untracked.get(id(held), ())]
            for holder in itertools.chain(untracked, gc.get_referrers(*asked)):
                if id(holder) in own or any(holder is each for each in (level, above, asked)):
                    continue
                if id(holder) in seen:
                    # The shortest way around is met first.
                    closing = holder if closing is None else closing
                elif (held := _held_of(holder, level)) is not None:
                    seen[id(holder)], below[id(holder)] = holder, held
                    above.append(holder)
            if not above:
                break
            self._cut_off = self._cut_off or len(above) > _MAX_BREADTH
            level = above[:_MAX_BREADTH]
        top = next(reversed(seen.values())) if closing is None else closing
        return self._without_root(_down(seen, below, top), closing is not None)

    def _from_root(self, nodes: list[Any]) -> str | None:
        """Return the path in words if it begins at a global, a local variable or an actor, else None."""
        top = id(nodes[0])
        if top in self._modules and len(nodes) > 1:
            name = holding.key_of(nodes[0], nodes[1])
            return f"module {self._modules[top]}, global {name}{holding.path(nodes[1:])}"
        if top in self._known:
            return f"{self._known[top]}{holding.path(nodes)}"
        if top in self._locals:
            frame, name, thread = self._locals[top]
            return f"thread {thread}, {holding.where(frame)}, local {name}{holding.path(nodes)}"
        return None

    def _without_root(self, nodes: list[Any], closes: bool) -> str:
        if len(nodes) == 1:
            return "compiled code: no Python object holds it"
        at = f"{type(nodes[0]).__name__}{holding.path(nodes)}"
        if self._cut_off:
            return f"not known, the search was cut off at: {at}"
        if closes:
            return (
                f"a reference cycle: {at}; no module, function or actor leads to it, so the next"
                " full garbage collection frees it"
            )
        return f"compiled code, which holds: {at}"


def _down(seen: dict[int, Any], below: dict[int, int], top: Any) -> list[Any]:
    """Return the objects on the path from `top` down to the reference."""
    nodes = [top]
    place: int | None = id(top)
    while place is not None and (place := below.get(place)) is not None:
        nodes.append(seen[place])
    return nodes


def _held_of(holder: Any, level: list[Any]) -> int | None:
    wanted = {id(each) for each in level}
    return next((id(each) for each in gc.get_referents(holder) if id(each) in wanted), None)
