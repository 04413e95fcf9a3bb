"""Processes of the library that go through a scenario: one `ReferenceCounter` each, and a message pump.

Messages are delivered in the order in which they were sent, and after each step until none is left, so a
scenario goes the same way each time. What stands here is what Ray's core worker and its Python layer do
around the reference counter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mantaray import native

# {process: {object: [local references, references by submitted tasks]}}
Tables = dict[str, dict[str, list[int]]]
_NO_RETRIES = native.LineageReconstructionEligibility.INELIGIBLE_NO_RETRIES
_ELIGIBLE = native.LineageReconstructionEligibility.ELIGIBLE
_PUT = native.LineageReconstructionEligibility.INELIGIBLE_PUT


@dataclass
class _Object:
    name: str
    id: bytes
    owner: str
    contents: list[str] = field(default_factory=list)


@dataclass
class _Call:
    """A call that goes on: who called whom with what; what the callee found in it, and has to give back."""

    caller: str
    callee: str
    result: str
    arguments: list[str]
    found: list[str]
    own: list[str]


class _Process:
    """A process: its counter, and what its Python code holds."""

    def __init__(self, world: World, name: str, number: int) -> None:
        self.name = name
        self.alive = True
        self.address = native.Address(bytes([number]) * 28, bytes([255]) * 28, "127.0.0.1", number)
        self.lineage: dict[bytes, list[bytes]] = {}
        self.counter = native.ReferenceCounter(
            self.address,
            lineage_pinning=True,
            subscribe_ref_removed=lambda to, what: world.subscribe(self, to, what),
            publish_ref_removed=lambda to, what: world.publish(self, to, what),
            unsubscribe_ref_removed=lambda to, what: world.unsubscribe(self, to, what),
        )
        self.counter.set_release_lineage_callback(
            lambda result: (self.lineage.pop(result, []), 1),
        )


class World:
    """All processes of a scenario."""

    def __init__(self) -> None:
        self._processes: dict[str, _Process] = {}
        self._objects: dict[str, _Object] = {}
        self._hidden = 0
        self._calls: dict[str, _Call] = {}
        self._messages: deque[Callable[[], None]] = deque()
        # (owner, borrower, object): who waits for whose answer about what.
        self._waiting: set[tuple[str, str, bytes]] = set()

    # --- Steps

    def step(self, words: list[str]) -> str | None:
        """Take a step and deliver every message; return what a "read" saw."""
        said = getattr(self, f"_{words[0]}")(*words[1:])
        while self._messages:
            self._messages.popleft()()
        for process in self._processes.values():
            process.counter.check_invariants()
        return said if words[0] == "read" else None

    def tables(self) -> Tables:
        """Return what the tables of all living processes hold of the objects with names."""
        names = {item.id: item.name for item in self._objects.values() if item.name[0] != "_"}
        return {
            process.name: {
                names[object_id]: list(counts)
                for object_id, counts in process.counter.get_all_reference_counts().items()
                if object_id in names
            }
            for process in self._processes.values()
            if process.alive and process.name != "pool"
        }

    def _put(self, who: str, name: str, *inner: str) -> None:
        item = self._new(name, who, list(inner))
        self._counter(who).add_owned_object(
            item.id,
            contained_ids=self._ids(inner),
            lineage_eligibility=_PUT,
            add_local_ref=True,
        )

    def _give(self, who: str, whom: str, *names: str) -> None:
        self._call(who, whom, names, keep=True)

    def _lend(self, who: str, whom: str, *names: str) -> None:
        self._call(who, whom, names)

    def _unpack(self, who: str, whom: str, name: str, *_: str) -> None:
        self._call(who, whom, [name], direct=True, keep=True)

    def _ask(self, who: str, whom: str, result: str, *names: str) -> None:
        self._call(who, whom, [], result=result, returned=names)

    def _open(self, who: str, outer: str, *_: str) -> None:
        for inner in self._objects[outer].contents:
            self._hold(who, inner, outer)

    def _make(self, who: str, result: str, *names: str) -> None:
        self._call(who, "pool", names, result=result, large=True)

    def _small(self, who: str, result: str, *names: str) -> None:
        self._call(who, "pool", names, result=result)

    def _start(self, who: str, whom: str, result: str, *names: str) -> None:
        self._begin(who, whom, list(names), result, direct=False)

    def _use(self, who: str, whom: str, result: str, name: str) -> None:
        self._begin(who, whom, [name], result, direct=True)

    def _finish(self, _: str, result: str) -> None:
        self._end(self._calls.pop(result), keep=False, returned=(), large=False)

    def _drop(self, who: str, *names: str) -> None:
        for name in names:
            self._release(who, name)

    def _dump(self, who: str, name: str) -> None:
        # Whoever reads the pickle may come at any time, so the reference is never given back.
        self._counter(who).add_local_reference(self._objects[name].id)

    def _load(self, who: str, name: str) -> None:
        self._hold(who, name, None)

    def _kill(self, who: str) -> None:
        self._process(who).alive = False
        for result, call in list(self._calls.items()):
            if who in (call.caller, call.callee):
                del self._calls[result]
            if who == call.callee:
                self._reply(call, [], [], large=False)
        for owner, borrower, object_id in sorted(self._waiting):
            if borrower == who:
                self._fail(owner, borrower, object_id)

    def _read(self, who: str, name: str) -> str:
        item = self._objects[name]
        owner = self._process(item.owner)
        if not owner.alive:
            return "owner died"
        known = self._counter(who).has_reference(item.id)
        return "value" if known and owner.counter.has_reference(item.id) else "gone"

    # --- What the core worker does around the counter

    def _call(
        self,
        who: str,
        whom: str,
        names: Any,
        *,
        result: str | None = None,
        direct: bool = False,
        keep: bool = False,
        returned: Any = (),
        large: bool = False,
    ) -> None:
        hidden = result is None
        if result is None:
            self._hidden += 1
            result = f"_{self._hidden}"
        eligibility = _ELIGIBLE if whom == "pool" else _NO_RETRIES
        self._begin(who, whom, list(names), result, direct=direct, eligibility=eligibility)
        self._end(self._calls.pop(result), keep=keep, returned=returned, large=large)
        if hidden:
            self._messages.append(lambda: self._release(who, result))

    def _begin(
        self,
        who: str,
        whom: str,
        names: list[str],
        result: str,
        *,
        direct: bool,
        eligibility: Any = _NO_RETRIES,
    ) -> None:
        self._process(whom)
        item = self._new(result, who, [])
        self._counter(who).add_owned_object(
            item.id, lineage_eligibility=eligibility, add_local_ref=True
        )
        self._counter(who).update_submitted_task_references([item.id], self._ids(names))
        for name in names:
            # The core worker's own reference, for as long as the task runs.
            self._hold(whom, name, None)
        found = []
        for name in names:
            # In a list: found there. By itself: the Python layer's, beside the value.
            self._hold(whom, name, None)
            if not direct:
                found.append(name)
                continue
            for inner in self._objects[name].contents:
                self._hold(whom, inner, name)
                found.append(inner)
        own = names if direct else []
        self._calls[result] = _Call(who, whom, result, names, found, own)

    def _end(self, call: _Call, *, keep: bool, returned: Any, large: bool) -> None:
        counter = self._counter(call.callee)
        if returned:
            counter.add_nested_object_ids(
                self._objects[call.result].id,
                self._ids(returned),
                self._process(call.caller).address,
            )
        for name in call.own if keep else [*call.own, *call.found]:
            self._release(call.callee, name)
        table, _ = counter.pop_and_clear_local_borrowers(self._ids(call.arguments))
        self._messages.append(lambda: self._reply(call, table, list(returned), large))

    def _reply(self, call: _Call, table: Any, returned: list[str], large: bool) -> None:
        caller = self._process(call.caller)
        if not caller.alive:
            return
        item = self._objects[call.result]
        item.contents = returned
        if returned:
            caller.counter.add_nested_object_ids(item.id, self._ids(returned), caller.address)
        keeps_lineage = large and caller.counter.has_reference(item.id)
        if keeps_lineage:
            caller.lineage[item.id] = self._ids(call.arguments)
        caller.counter.update_finished_task_references(
            [item.id],
            self._ids(call.arguments),
            not keeps_lineage,
            self._process(call.callee).address,
            table,
        )

    def _hold(self, who: str, name: str, outer: str | None) -> None:
        """Make a reference out of bytes, found in a value (or not)."""
        item = self._objects[name]
        self._counter(who).add_local_reference(item.id)
        if item.owner != who:
            outer_id = self._objects[outer].id if outer else None
            self._counter(who).add_borrowed_object(
                item.id, outer_id, self._process(item.owner).address
            )

    def _release(self, who: str, name: str) -> None:
        self._counter(who).remove_local_reference(self._objects[name].id)

    # --- Messages

    def subscribe(self, owner: _Process, to: Any, what: Any) -> None:
        """An owner asks a borrower to say when it has no reference any more."""
        borrower = self._at(to)
        self._waiting.add((owner.name, borrower.name, what.object_id))
        if borrower.alive:
            self._messages.append(
                lambda: borrower.counter.subscribe_ref_removed(what) if borrower.alive else None
            )
        else:
            self._fail(owner.name, borrower.name, what.object_id)

    def unsubscribe(self, owner: _Process, to: Any, object_id: bytes) -> None:
        """The owner waits no more."""
        self._waiting.discard((owner.name, self._at(to).name, object_id))

    def publish(self, borrower: _Process, to: Any, what: Any) -> None:
        """A borrower tells an owner."""
        owner = self._at(to)
        self._messages.append(
            lambda: (
                owner.counter.handle_ref_removed(borrower.address, what) if owner.alive else None
            )
        )

    def _fail(self, owner: str, borrower: str, object_id: bytes) -> None:
        process, address = self._process(owner), self._process(borrower).address
        self._messages.append(
            lambda: (
                process.counter.handle_publisher_failed(address, object_id)
                if process.alive
                else None
            )
        )

    # --- Names

    def _process(self, name: str) -> _Process:
        if name not in self._processes:
            self._processes[name] = _Process(self, name, len(self._processes) + 1)
        return self._processes[name]

    def _counter(self, name: str) -> Any:
        return self._process(name).counter

    def _at(self, address: Any) -> _Process:
        return next(each for each in self._processes.values() if each.address == address)

    def _new(self, name: str, owner: str, contents: list[str]) -> _Object:
        object_id = (len(self._objects) + 1).to_bytes(28, "little")
        item = _Object(name, object_id, owner, contents)
        self._objects[name] = item
        return item

    def _ids(self, names: Any) -> list[bytes]:
        return [self._objects[name].id for name in names]


def go_through(steps: list[list[str]]) -> list[dict[str, Any]]:
    """Take all steps; return after each of them what can be seen: tables, and what a "read" saw."""
    world = World()
    seen: list[dict[str, Any]] = []
    for words in steps:
        said = world.step(words)
        seen.append({"tables": world.tables(), "read": said})
    return seen
