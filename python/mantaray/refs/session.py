"""Everything that finalizers ask of Ray: who owns an object, and whether any process can still reach it.

Part of `mantaray.refs`. A session is the time between `ray.init` and `ray.shutdown` in this
process; in a worker it is the life of the process. Ray calls back when an owned object goes out of
scope: through its Python interface in newer releases, through `mantaray.refs.events` in older ones. If
neither works, this module polls the process's own reference table, entry by entry. It asks for an entry
with a *probe*, an `ObjectRef` that was made without its constructor. No counter counts a probe, so a
check does not keep the object alive.

A core worker that is asked anything after its end ends the whole process. So every check is made under
a lock and only while the session lasts, and `end` waits for a check in progress. Ray does not announce
the end of a worker. There the core worker's IO thread shows it: that thread ends a few milliseconds
before the rest.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mantaray.refs import events

# After how many objects to check again that the core worker still exists.
_CHUNK = 64
_THREADS = Path("/proc/self/task")
_IO_THREAD = "worker.io"


class NotOwnerError(ValueError):
    """A finalizer was asked for in a process that does not own the object.

    Attributes:
        object_id: the object, in hex.
        worker_id: the worker that owns it, in hex.
        node_id: the node of that worker, in hex.
        address: where it listens, "ip:port".
        pid: its process id on that node; None if the cluster does not report it.
    """

    def __init__(
        self, object_id: str, worker_id: str, node_id: str, address: str, pid: int | None
    ) -> None:
        """Keep the owner's ids, and make one sentence of them."""
        process = f"process {pid} at {address}" if pid else f"the process at {address}"
        super().__init__(
            f"object {object_id} is owned by {process} (worker {worker_id}, node {node_id}), not by "
            "this process; call finalize in the process that called ray.put or started the task"
        )
        self.object_id = object_id
        self.worker_id = worker_id
        self.node_id = node_id
        self.address = address
        self.pid = pid


def current_node() -> Any:
    """Return Ray's object for this process's node, which differs in each session; None without Ray."""
    from ray._private import worker

    return worker.global_worker.node if hasattr(worker.global_worker, "core_worker") else None


class Session:
    """Ray in this process, from its start to its end.

    Args:
        on_gone: called with the session and the id of an object that went out of scope, on a thread of
            Ray; only if Ray calls back.

    Raises:
        RuntimeError: Ray is not initialized in this process.
    """

    def __init__(self, on_gone: Callable[[Session, bytes], None]) -> None:
        from ray._private import worker

        node = current_node()
        if node is None:
            raise RuntimeError("Ray is not initialized in this process; call ray.init() first")
        self.ended = False
        self.is_driver: bool = worker.global_worker.mode != worker.WORKER_MODE
        self._core = worker.global_worker.core_worker
        self._node = weakref.ref(node)
        self._worker_id: bytes = self._core.get_worker_id().binary()
        self._own_address = b""
        self._io_thread = _find_thread(_IO_THREAD)
        self._look = threading.Lock()
        self._add_callback = getattr(self._core, "add_object_out_of_scope_callback", None)
        self._gone: Callable[[bytes], None] = lambda object_id: on_gone(self, object_id)
        self._events = None if self._add_callback else events.listen(self._core, self._happened)
        self._freed: set[bytes] = set()
        self._lineage = None if self.tells else _Lineage(self._core, _dead_nodes())

    @property
    def tells(self) -> bool:
        """Whether Ray itself calls back; otherwise the caller must poll."""
        return self._add_callback is not None or self._events is not None

    def is_current(self) -> bool:
        """Return whether Ray is still in the session in which this object was made."""
        node = self._node()
        return not self.ended and node is not None and current_node() is node

    def is_over(self) -> bool:
        """Return whether Ray has ended its core worker. Until then others may reach the objects."""
        from ray._private import worker

        node = current_node()
        return not hasattr(worker.global_worker, "core_worker") or (
            node is not None and node is not self._node()
        )

    def end(self) -> None:
        """Make no further checks; return when none is in progress."""
        self.ended = True
        with self._look:
            # Drop this reference, so that Ray's own is the last one to the core worker.
            self._core = self._lineage = self._events = None

    def check_owner(self, ref: Any) -> None:
        """Raise unless this process owns the object.

        Raises:
            NotOwnerError: another process does.
            ValueError: this process does not know the object.
            RuntimeError: Ray is being shut down.
        """
        core = self._core
        if core is None:
            raise RuntimeError("Ray is being shut down in this process; its objects go with it")
        address: bytes = core.get_owner_address(ref)
        if address == self._own_address:
            return
        from ray.core.generated.common_pb2 import Address

        owner = Address.FromString(address)
        if owner.worker_id == self._worker_id:
            self._own_address = address
            return
        # The field had another name before Ray 2.50.
        node_id = getattr(owner, "node_id", b"") or getattr(owner, "raylet_id", b"")
        raise NotOwnerError(
            ref.hex(),
            owner.worker_id.hex(),
            node_id.hex(),
            f"{owner.ip_address}:{owner.port}",
            _pid_of(owner.worker_id),
        )

    def watch(self, ref: Any) -> bool:
        """Ask Ray for a callback, if it has any; return False if the object is out of scope already."""
        if self._add_callback is not None:
            return bool(self._add_callback(ref, self._gone))
        if self._events is None:
            return True
        object_id: bytes = ref.binary()
        with self._look:
            # Ray also refuses a callback for a freed object, although references keep that in scope.
            return not self.can_look() or self._events.add(object_id) or self._is_freed(object_id)

    def must_look_at(self, ids: Sequence[bytes]) -> Sequence[bytes]:
        """Return the objects for which Ray will not call back."""
        if not self.tells:
            return ids
        freed = self._freed
        return [object_id for object_id in ids if object_id in freed] if freed else ()

    def _happened(self, ids: list[bytes]) -> None:
        """Pass the counter's callbacks on. A freed object is polled until it is out of scope."""
        for object_id in ids:
            with self._look:
                if not self.can_look() or self._is_freed(object_id):
                    continue
            self._gone(object_id)

    def _is_freed(self, object_id: bytes) -> bool:
        assert self._events is not None, "only events need this"
        if self._events.is_freed(object_id):
            self._freed.add(object_id)
            return True
        return False

    def can_look(self) -> bool:
        """Return whether the core worker can be asked."""
        return self.is_current() and (self._io_thread is None or os.path.exists(self._io_thread))

    def gone(self, ids: Sequence[bytes]) -> list[bytes]:
        """Return the objects that are out of scope, whether or not Ray has called back already.

        If Ray does not call back, these are the objects that the process's table no longer holds. For
        objects that the table keeps for their lineage see `released`.
        """
        if self._events is not None:
            return self._refused(ids, self._still_in_scope)
        add = self._add_callback
        if add is None:
            return self._absent(ids)
        # Ray accepts no callback for an object that is out of scope. If it accepts one, the object has
        # two callbacks, and the first of them calls the finalizer.
        return self._refused(ids, lambda probe: add(probe, _ignore))

    def _still_in_scope(self, probe: Any) -> bool:
        assert self._events is not None, "only events need this"
        object_id: bytes = probe.binary()
        return self._events.add(object_id) or self._is_freed(object_id)

    def _absent(self, ids: Sequence[bytes]) -> list[bytes]:
        return self._refused(ids, lambda probe: self._core.get_owner_address(probe))

    def _refused(self, ids: Sequence[bytes], ask: Callable[[Any], Any]) -> list[bytes]:
        """Return the objects for which a question to the core worker gets False or a ValueError.

        Other Python threads get their turn between any two of them.
        """
        refused: list[bytes] = []
        with self._look:
            probe = _probe()
            for start in range(0, len(ids), _CHUNK):
                if not self.can_look():
                    break
                for object_id in ids[start : start + _CHUNK]:
                    probe._set_id(object_id)
                    try:
                        if ask(probe) is False:
                            refused.append(object_id)
                    except ValueError:
                        refused.append(object_id)
        return refused

    def released(self, ids: Sequence[bytes], budget_s: float) -> tuple[list[bytes], int]:
        """Find objects that no process reaches although the table keeps them to rebuild others.

        Args:
            ids: of objects that the table holds.
            budget_s: how long it may take, in seconds.

        Returns:
            The ids found, and how many of `ids` were looked at.
        """
        lineage = self._lineage
        if lineage is None:
            return [], len(ids)
        suspects: list[bytes] = []
        looked = 0
        deadline = time.perf_counter() + budget_s
        while looked < len(ids) and time.perf_counter() < deadline:
            chunk = ids[looked : looked + _CHUNK]
            with self._look:
                if not self.can_look():
                    return [], looked
                suspects += lineage.without_value(chunk)
            looked += len(chunk)
        # The control plane is asked outside the lock, because it may not answer for a while.
        if not suspects or lineage.too_early() or lineage.nodes_have_died():
            return [], looked
        with self._look:
            return (lineage.unreferenced(suspects) if self.can_look() else []), looked

    def holds(self, object_id: bytes) -> bool:
        """Return whether the process's table holds the object."""
        return self.can_look() and not self._absent([object_id])

    def make_ref(self, object_id: bytes) -> Any:
        """Return a new reference to an object that this process owns; None if it is gone."""
        import ray

        if not self.holds(object_id):
            return None
        ref = ray.ObjectRef(object_id, self._own_address)
        # The new reference keeps the object. If the object had gone just before, the table would now hold a
        # new entry without an owner.
        return ref if self.holds(object_id) else None


class _Lineage:
    """Finds task results that are out of scope, if Ray does not call back.

    The table keeps the entry of such a result while another result may have to be computed from it again.
    The entry has no references, a known size, and no value anywhere: neither in this process, nor on a
    node, nor spilled. An object that was lost with its node looks the same. So once a node has died, this
    class finds nothing more, and such an object is found when its entry goes.

    Args:
        core: Ray's core worker.
        dead: the nodes that were dead at the beginning.
    """

    _SHARE = 0.05  # of one processor, for reading the whole table

    def __init__(self, core: Any, dead: frozenset[str]) -> None:
        self._core = core
        self._dead_before = dead
        self._before: set[bytes] = set()
        self._not_before_s = 0.0

    def without_value(self, ids: Sequence[bytes]) -> list[bytes]:
        """Return the objects of known size whose value does not exist anywhere."""
        probes = [_probe(object_id) for object_id in ids]
        found = self._core.get_local_object_locations(probes)
        return [
            object_id
            for object_id, probe in zip(ids, probes, strict=True)
            if _is_nowhere(found.get(probe))
            and not self._core.object_exists(probe, memory_store_only=True)
        ]

    def too_early(self) -> bool:
        """Return whether the table was read so recently that reading it again would cost too much."""
        return time.perf_counter() < self._not_before_s

    def nodes_have_died(self) -> bool:
        """Return whether a node has died since the beginning."""
        return not _dead_nodes() <= self._dead_before

    def unreferenced(self, suspects: Sequence[bytes]) -> list[bytes]:
        """Return the suspects that have no references, and had none at the previous check."""
        start = time.perf_counter()
        counts = self._core.get_all_reference_counts()
        now = {
            object_id
            for object_id in suspects
            if counts.get(object_id.hex().encode()) == {"local": 0, "submitted": 0}
        }
        end = time.perf_counter()
        self._not_before_s = end + (end - start) / self._SHARE
        # Two checks are needed, because the size of a result is known a moment before its value exists.
        found = now & self._before
        self._before = now - found
        return list(found)


def _probe(object_id: bytes | None = None) -> Any:
    """Return a reference that no counter counts, neither when it is made nor when it goes."""
    import ray

    probe = ray.ObjectRef.__new__(ray.ObjectRef)
    if object_id is not None:
        probe._set_id(object_id)
    return probe


def _ignore(_: bytes) -> None:
    pass


def _find_thread(name: str) -> str | None:
    """Return the path below /proc of the thread of this process with a name; None if there is none."""
    try:
        for thread in _THREADS.iterdir():
            if (thread / "comm").read_text().strip() == name:
                return str(thread)
    except OSError:
        pass
    return None


def _is_nowhere(location: dict[str, Any] | None) -> bool:
    return (
        location is not None
        and not location["node_ids"]
        and not location["did_spill"]
        and location["object_size"] is not None
    )


def _dead_nodes() -> frozenset[str]:
    import ray

    return frozenset(node["NodeID"] for node in ray.nodes() if not node["Alive"])


def _pid_of(worker_id: bytes) -> int | None:
    """Return the process id of a worker anywhere in the cluster, or None."""
    try:
        import ray
        from ray.core.generated.gcs_pb2 import WorkerTableData

        ray.nodes()  # connects to the control plane
        state = ray._private.state.state
        accessor = getattr(state, "global_state_accessor", None) or state._global_state_accessor
        raw = accessor.get_worker_info(ray.WorkerID(worker_id))
        return WorkerTableData.FromString(raw).pid or None if raw else None
    except Exception:
        # The id only improves the message.
        return None
