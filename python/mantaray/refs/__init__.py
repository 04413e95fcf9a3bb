"""Ray's object references for users: a call when nobody can reach an object; see docs/finalizers.md."""

from __future__ import annotations

from mantaray.refs.finalizers import finalize
from mantaray.refs.session import NotOwnerError

__all__ = ["NotOwnerError", "finalize"]
