"""Patches that are known without importing the modules that define them.

Most processes of Ray import few of the modules that patches change. `index.py`, which
`tools/patch_index.py` writes, holds what the overlay has to know of each patch of Mantaray. The module
that defines a patch is imported when Ray imports the first module that the patch changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mantaray.overlay.patch import Patch, Target

if TYPE_CHECKING:
    from mantaray.overlay.installation import Installation

# The patches of one subpackage: its name, and for each patch the fields of `Patch`. The targets are
# grouped by module and releases, and of the installers there are the modules.
Entry = tuple[str, tuple[tuple[Any, ...], ...]]


class DeferredInstaller:
    """Installs a part of a patch with the installer of that patch, once its subpackage is imported."""

    def __init__(self, package: str, patch: str, find: Callable[[str], Patch]) -> None:
        self._package = package
        self._patch = patch
        self._find = find

    def __call__(self, module: ModuleType, installation: Installation) -> None:
        """Install.

        Raises:
            RuntimeError: the index is of another Mantaray than the patch.
        """
        importlib.import_module(f"mantaray.{self._package}.patch")
        patch = self._find(self._patch)
        installer = patch.installers[module.__name__]
        if isinstance(installer, DeferredInstaller):
            raise RuntimeError(
                f"mantaray.{self._package}.patch has no patch {self._patch}; install ray-mantaray again"
            )
        installer(module, installation)


def read(
    entries: Iterable[Entry], packages: Collection[str], find: Callable[[str], Patch]
) -> list[Patch]:
    """Return the patches of an index, with deferred installers.

    Args:
        entries: the index.
        packages: the subpackages that there are; entries of others are left out.
        find: returns the patch of a name that is known at that time.
    """
    return [
        Patch(
            name,
            summary,
            plain_since,
            enough_since,
            tuple(Target(module, each, rays) for module, rays, names in targets for each in names),
            {module: DeferredInstaller(package, name, find) for module in modules},
            needs_native,
        )
        for package, patches in entries
        if package in packages
        for name, summary, plain_since, enough_since, targets, modules, needs_native in patches
    ]


def entry_of(package: str, patches: Iterable[Patch]) -> Entry:
    """Return what an index says of the patches of a subpackage."""
    return package, tuple(_fields_of(patch) for patch in patches)


def same(deferred: Patch, patch: Patch) -> bool:
    """Return whether a patch is the one that an index has described."""
    is_deferred = all(isinstance(one, DeferredInstaller) for one in deferred.installers.values())
    return is_deferred and _fields_of(deferred) == _fields_of(patch)


def _fields_of(patch: Patch) -> tuple[Any, ...]:
    groups: dict[tuple[str, str], list[str]] = {}
    for target in patch.targets:
        groups.setdefault((target.module, target.rays), []).append(target.attribute)
    targets = tuple((*group, tuple(names)) for group, names in groups.items())
    modules = tuple(patch.installers)
    return (*patch[:4], targets, modules, patch.needs_native)
