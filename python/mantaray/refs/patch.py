"""The patch `refs`: finalizers hear of `ray.shutdown` before Ray's core worker goes.

Wrapped is the function that Ray calls first when it shuts down in a process. A process in which nobody
has made a finalizer passes through it untouched.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mantaray.overlay import Installation, Patch, Target, register

_WORKER = "ray._private.worker"


def _disconnect(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    finalizers = sys.modules.get("mantaray.refs.finalizers")
    if finalizers is not None:
        finalizers.session_is_ending()
    return wrapped(*args, **kwargs)


def _install(module: ModuleType, installation: Installation) -> None:
    installation.wrap(module, "disconnect", _disconnect)


REFS_PATCH = Patch(
    name="refs",
    summary="mantaray.refs.finalize: a call when no process can reach an object any more",
    plain_since=None,
    enough_since=None,
    targets=(Target(_WORKER, "disconnect"),),
    installers={_WORKER: _install},
)

register(REFS_PATCH)
