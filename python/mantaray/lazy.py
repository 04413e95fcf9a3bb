"""Fetches names of a package from its modules when they are first used.

Every process of Ray imports the patches of all packages, and few processes need the rest of a package. The
overlay's own package does not use this module, because every interpreter imports the overlay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def fetching(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return the function `__getattr__` of a package.

    Args:
        package: its name, `__name__` in it.
        homes: the module of each name, without the package.
    """

    def fetch(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home}"), name)

    return fetch
