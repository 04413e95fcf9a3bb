"""Calls a function when a module has been imported, before anybody else sees the module.

A finder at the front of `sys.meta_path` lets the other finders find the module. It then puts a loader
around theirs that calls what waits for the module. `wrapt` does the same and more; loading it takes
longer than all of Mantaray may take in each process of Ray (see docs/overlay.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], None]


class _Finder(MetaPathFinder):
    """Finds the modules that are waited for by asking the finders behind it.

    Attributes:
        waiting: what is called for each module, by its name.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, list[Callback]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec whose loader calls what waits; None for a module that nobody waits for."""
        if name not in self.waiting:
            return None
        for finder in sys.meta_path:
            # Finders of other libraries have no such method, or are this one.
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find and find(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(Loader):
    """Loads a module with another loader, then calls what waits for it."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        # `runpy` and `inspect` ask a spec's loader for the source.
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the other loader."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run the module as if its own loader had been asked, then call what waits for it."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for callback in self._finder.waiting.pop(module.__name__, []):
            callback(module)


_FINDER = _Finder()


def when_imported(name: str, callback: Callback) -> None:
    """Call a function with a module once its import has come to an end.

    The function must not raise: the import would fail.

    Args:
        name: the full name of a module that is not imported yet.
        callback: called by the thread that imports it, which holds the lock of that import.
    """
    _FINDER.waiting.setdefault(name, []).append(callback)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
