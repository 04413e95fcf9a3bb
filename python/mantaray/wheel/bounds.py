"""Upper bounds that a Ray of some age needs today and does not carry: the one table of them.

A release of Ray names the oldest versions of its dependencies that it works with, seldom the
newest: those did not exist yet. When a later release of a dependency breaks it, plain pip still
picks that one. A custom wheel carries the bound in its metadata instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import Version


@dataclass(frozen=True)
class Bound:
    """One requirement that is added to the metadata of some Rays.

    Attributes:
        requirement: as Requires-Dist has it, "protobuf<7".
        ray_versions: the Rays that need it, a specifier.
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
