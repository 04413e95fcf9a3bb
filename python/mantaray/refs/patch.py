"""The patches `refs`, `refcount` and `nesting`.

`refs` tells finalizers of `ray.shutdown` before Ray's core worker goes. It wraps the function that
Ray calls first when it shuts down in a process. A process without finalizers passes through it
untouched.

`refcount` keeps Ray's own reference counter alive when it gets two notices about one borrower, on
the releases where that ends the process. `nesting` does the same for an outer object that goes out of
scope again. See `mantaray.refs.guard`. Their targets are native, so `mantaray._native` checks them when
it attaches.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mantaray.overlay import Installation, Patch, Target, register, rely_on_native

_WORKER = "ray._private.worker"
_RAYLET = "ray._raylet"


def _disconnect(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    finalizers = sys.modules.get("mantaray.refs.finalizers")
    if finalizers is not None:
        finalizers.session_is_ending()
    return wrapped(*args, **kwargs)


def _install(module: ModuleType, installation: Installation) -> None:
    installation.wrap(module, "disconnect", _disconnect)


def _install_guard(module: ModuleType, installation: Installation) -> None:
    if not rely_on_native("refcount"):
        return
    from mantaray.refs.guard import attach

    attach(module, installation)


def _install_nesting_guard(module: ModuleType, installation: Installation) -> None:
    if not rely_on_native("nesting"):
        return
    from mantaray.refs.guard import attach_nesting

    attach_nesting(module, installation)


REFS_PATCH = Patch(
    name="refs",
    summary="mantaray.refs.finalize: a call when no process can reach an object any more",
    plain_since=None,
    enough_since=None,
    targets=(Target(_WORKER, "disconnect"),),
    installers={_WORKER: _install},
)
REFCOUNT_PATCH = Patch(
    name="refcount",
    summary="a second notice about one borrower does not end the owner's process",
    plain_since="2.56",
    enough_since="2.56",
    targets=(),
    installers={_RAYLET: _install_guard},
    needs_native=True,
)
NESTING_PATCH = Patch(
    name="nesting",
    summary="an object with references in it may go out of scope twice without ending the process",
    plain_since=None,
    enough_since=None,
    targets=(),
    installers={_RAYLET: _install_nesting_guard},
    needs_native=True,
)

register(REFS_PATCH)
register(REFCOUNT_PATCH)
register(NESTING_PATCH)
