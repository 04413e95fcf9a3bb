"""Ray's object references for users: a call when nobody can reach an object; see docs/finalizers.md.

Each name is fetched from its module at first use: every process of Ray imports the patches beside them,
and few have a finalizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mantaray.refs.finalizers import finalize
    from mantaray.refs.session import NotOwnerError

__all__ = ["NotOwnerError", "finalize"]
_HOMES = {"NotOwnerError": "session", "finalize": "finalizers"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
