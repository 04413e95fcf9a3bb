"""Keeps a second notice about one borrower from ending the owner, in Ray's own reference counter.

Part of `mantaray.refs`. The C++ is in src/mantaray/interpose; docs/internals/interposer.md says how
it works.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TypedDict, cast

from mantaray.overlay import Installation


class GuardCounts(TypedDict):
    """What the guard of this process has counted.

    Attributes:
        attached: whether it is attached.
        waiting: pairs of an object that this process owns and a borrower that has yet to let go.
        first_notices: notices that Ray has handled.
        repeated_ref_removed: "reference removed" messages after another notice about the same borrower.
        repeated_publisher_failed: "publisher failed" notices after another one.
        merged_late: repeated messages that Ray has handled because their object lived.
    """

    attached: bool
    waiting: int
    first_notices: int
    repeated_ref_removed: int
    repeated_publisher_failed: int
    merged_late: int


def counts() -> GuardCounts:
    """Return what the guard of this process has counted."""
    from mantaray._native import interpose

    return cast(GuardCounts, interpose.refcount_guard_counts())


def attach(module: ModuleType, installation: Installation) -> None:
    """Attach the guard to Ray's native library.

    Args:
        module: `ray._raylet`.
        installation: takes the guard back.

    Raises:
        RuntimeError: the guard was refused; the message says why.
    """
    from mantaray._native import interpose

    if _has_core_worker():
        # The guard has to see every borrower from the beginning.
        raise RuntimeError("Ray runs in this process already; attach it before ray.init()")
    assert module.__file__ is not None, "a native module comes from a file"
    interpose.attach_refcount_guard(module.__file__)
    installation.on_undo(interpose.detach_refcount_guard)


def _has_core_worker() -> bool:
    worker = sys.modules.get("ray._private.worker")
    return worker is not None and hasattr(getattr(worker, "global_worker", None), "core_worker")
