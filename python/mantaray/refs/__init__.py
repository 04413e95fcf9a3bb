"""Ray's object references for users: a call when nobody can reach an object; see docs/finalizers.md.

Each name is fetched from its module at first use: every process of Ray imports the patches beside them,
and few have a finalizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mantaray.lazy import fetching

if TYPE_CHECKING:
    from mantaray.refs.finalizers import finalize
    from mantaray.refs.session import NotOwnerError

__all__ = ["NotOwnerError", "finalize"]
__getattr__ = fetching(__name__, {"NotOwnerError": "session", "finalize": "finalizers"})
