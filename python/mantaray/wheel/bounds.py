"""The table of upper bounds that an older Ray needs today but does not have.

A release of Ray names the oldest versions of its dependencies that it works with, and seldom the
newest, which did not exist yet. If a later release of a dependency breaks Ray, plain pip still
installs that release. A custom wheel has the bound in its metadata instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import Version


@dataclass(frozen=True)
class Bound:
    """One requirement that is added to the metadata of some Rays.

    Attributes:
        requirement: in the form of Requires-Dist, "protobuf<7".
        ray_versions: the releases of Ray that need it, as a version specifier.
        why: what happens without it.
    """

    requirement: str
    ray_versions: str
    why: str


UPPER_BOUNDS = (
    Bound(
        "protobuf<7",
        "<2.56.1",
        "Serve reads FieldDescriptor.label, which protobuf 7 removed; no application deploys",
    ),
)


def bounds_for(ray_version: str) -> list[str]:
    """Return the requirements to add for a Ray.

    Args:
        ray_version: a release of Ray, "2.48.0".

    Raises:
        packaging.version.InvalidVersion: the version is not one.
    """
    version = Version(ray_version)
    return [
        bound.requirement
        for bound in UPPER_BOUNDS
        if SpecifierSet(bound.ray_versions).contains(version, prereleases=True)
    ]
