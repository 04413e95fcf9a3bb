"""Keeps processes alive where a check of Ray's own reference counter would end them.

`attach` prevents that a second notice about one borrower ends the owner. `attach_nesting` prevents that a
process ends when an object with references in it goes out of scope again.

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


class NestingCounts(TypedDict):
    """What the guard for outer objects has counted in this process.

    Attributes:
        attached: whether it is attached.
        kept_outer_objects: objects with references in them that are out of scope while Ray keeps their
            entries for a task that may run again.
        repeated_releases: how often such an object released an inner object again. Each time would have
            ended the process.
    """

    attached: bool
    kept_outer_objects: int
    repeated_releases: int


def counts() -> GuardCounts:
    """Return what the guard of this process has counted."""
    from mantaray._native import interpose

    return cast(GuardCounts, interpose.refcount_guard_counts())


def nesting_counts() -> NestingCounts:
    """Return what the guard for outer objects has counted in this process."""
    from mantaray._native import interpose

    return cast(NestingCounts, interpose.nesting_guard_counts())


def attach(module: ModuleType, installation: Installation) -> None:
    """Attach the guard for notices to Ray's native library.

    Args:
        module: `ray._raylet`.
        installation: takes the guard back.

    Raises:
        RuntimeError: the guard was refused; the message says why.
    """
    from mantaray._native import interpose

    interpose.attach_refcount_guard(_library(module))
    installation.on_undo(interpose.detach_refcount_guard)


def attach_nesting(module: ModuleType, installation: Installation) -> None:
    """Attach the guard for outer objects to Ray's native library; as `attach`."""
    from mantaray._native import interpose

    interpose.attach_nesting_guard(_library(module))
    installation.on_undo(interpose.detach_nesting_guard)


def _library(module: ModuleType) -> str:
    if _has_core_worker():
        # A guard must see every borrower and every released object from the beginning.
        raise RuntimeError("Ray runs in this process already; attach it before ray.init()")
    assert module.__file__ is not None, "a native module comes from a file"
    return module.__file__


def _has_core_worker() -> bool:
    worker = sys.modules.get("ray._private.worker")
    return worker is not None and hasattr(getattr(worker, "global_worker", None), "core_worker")
