"""What the programs about Serve's router share."""

from __future__ import annotations

from typing import Any


def remembered() -> list[Any]:
    """Return a list in which what is kept for each router of this process made from now on will be."""
    from mantaray.serve.routing import Routing

    made: list[Any] = []
    original = Routing.__init__

    def remember(self: Any, router: Any) -> None:
        original(self, router)
        made.append(self)

    Routing.__init__ = remember  # type: ignore[method-assign]
    return made
