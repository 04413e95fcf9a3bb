"""Finds the Ray of this environment from its files, without importing it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import zipfile

_VERSION_LINE = re.compile(rb"^(?:__)?version(?:__)?\s*=\s*[\"']([^\"']+)[\"']", re.MULTILINE)


class Sources(Protocol):
    """The Python source files of one Ray, installed or in a wheel."""

    def read(self, module: str) -> bytes | None:
        """Return the source of a module such as "ray._private.node"; None when there is none."""

    def digest(self, module: str) -> str | None:
        """Return the SHA-256 of the source of a module, in hexadecimal digits; None when there is none."""


class InstalledSources(NamedTuple):
    """Source files below the directory of an installed Ray."""

    ray_dir: Path

    def read(self, module: str) -> bytes | None:
        """Return the source of a module; None if it has none."""
        for relative in _candidates(module):
            try:
                return (self.ray_dir.parent / relative).read_bytes()
            except OSError:
                continue
        return None

    def digest(self, module: str) -> str | None:
        """Return the SHA-256 of the source of a module, which is computed once while the file stays."""
        for relative in _candidates(module):
            path = f"{self.ray_dir.parent}/{relative}"
            try:
                info = os.stat(path)
                key = (path, info.st_mtime_ns, info.st_size, info.st_ino)
                if key not in _DIGESTS:
                    with open(path, "rb", buffering=0) as file:
                        _DIGESTS[key] = hashlib.sha256(file.read()).hexdigest()
                return _DIGESTS[key]
            except OSError:
                continue
        return None


# Several patches rely on one file. A process imports some of what they change, and checks each file once.
_DIGESTS: dict[tuple[str, int, int, int], str] = {}


class WheelSources(NamedTuple):
    """Source files inside a wheel that is not installed."""

    wheel: zipfile.ZipFile

    def read(self, module: str) -> bytes | None:
        """Return the source of a module; None when there is none.

        Raises:
            zipfile.BadZipFile: the file is in the wheel but damaged.
        """
        for relative in _candidates(module):
            try:
                return self.wheel.read(relative)
            except KeyError:
                continue
        return None

    def digest(self, module: str) -> str | None:
        """Return the SHA-256 of the source of a module; None when there is none.

        Raises:
            zipfile.BadZipFile: the file is in the wheel but damaged.
        """
        source = self.read(module)
        return None if source is None else hashlib.sha256(source).hexdigest()


def _candidates(module: str) -> tuple[str, str]:
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py"


class InstalledRay(NamedTuple):
    """A Ray that this interpreter would import, or has imported.

    Attributes:
        version: as its files say; "unknown" if they do not say it.
        path: the directory of the package.
    """

    version: str
    path: Path

    @property
    def sources(self) -> InstalledSources:
        """The source files of this Ray."""
        return InstalledSources(self.path)


def find_ray() -> InstalledRay | None:
    """Return the Ray of this interpreter without importing it, or None when there is none."""
    module = sys.modules.get("ray")
    if module is not None:
        locations = getattr(module, "__path__", ())
    else:
        spec = importlib.util.find_spec("ray")
        locations = (spec and spec.submodule_search_locations) or ()
    for location in locations:
        path = Path(location)
        # Without this file it is a directory that happens to be called ray.
        if (path / "__init__.py").is_file():
            return InstalledRay(read_version(InstalledSources(path)) or "unknown", path)
    return None


def read_version(sources: Sources) -> str | None:
    """Return the version that the files of a Ray state; None if they state none."""
    for module in ("ray._version", "ray"):
        match = _VERSION_LINE.search(sources.read(module) or b"")
        if match:
            return match[1].decode("ascii", "replace")
    return None


def serves(specifier: str, version: str) -> bool:
    """Return whether a version specifier (">=2.50,<2.55") contains a version.

    Raises:
        packaging.specifiers.InvalidSpecifier: the specifier is not one.
        packaging.version.InvalidVersion: the version is not one.
    """
    quick = _serves_final(specifier, version)
    if quick is not None:
        return quick
    # Few processes need more than the above, and loading this takes milliseconds.
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    return SpecifierSet(specifier).contains(Version(version), prereleases=True)


def _serves_final(specifier: str, version: str) -> bool | None:
    """Return what `serves` does for a final release and bounds such as ">=2.50,<2.55"; None for others."""
    release = _final(version)
    if release is None:
        return None
    for bound in specifier.split(","):
        is_lower = bound.startswith(">=")
        limit = _final(bound[2:] if is_lower else bound[1:])
        if limit is None or not (is_lower or bound.startswith("<")):
            return None
        if is_lower != (release >= limit):
            return False
    return True


def _final(version: str) -> tuple[int, ...] | None:
    parts = version.split(".")
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    return (*map(int, parts), 0, 0)[:3]
