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
# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_FILES = (
    "3e952bf18b188db672262d40a2b2ce5e66346ce6160a6e2e9b2b8dbc6650236a",
    "5d17b9611da21b6700e15c04a718670eacfcdb3be3a80b20eb48626989a4e545",
)


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
    ray_versions=">=2.48,<2.61",
    plain_since=None,
    enough_since=None,
    targets=(Target(_WORKER, "disconnect", ("d6db6e2a90279f72", "f65b64ac9b519c94"), _FILES),),
    installers={_WORKER: _install},
)

register(REFS_PATCH)
