"""Calls a function when no process can reach an object any more, and shows who holds an object.

See docs/finalizers.md. Each name is fetched from its module at first use, because every process of Ray
imports the patches of this package, and few processes have a finalizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mantaray.lazy import fetching

if TYPE_CHECKING:
    from mantaray.refs.finalizers import finalize
    from mantaray.refs.session import NotOwnerError

__all__ = ["NotOwnerError", "finalize"]
__getattr__ = fetching(__name__, {"NotOwnerError": "session", "finalize": "finalizers"})
