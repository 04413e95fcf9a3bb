"""Patches as values: what a patch touches, which Rays it serves, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mantaray.overlay.installation import Installation

Installer = Callable[[ModuleType, "Installation"], None]


@dataclass(frozen=True)
class Target:
    """Something of Ray that a patch touches or relies on.

    Attributes:
        module: the full name of a Ray module, "ray._private.node".
        attribute: a function, class or variable in it, "Node.start" for what is in a class.
        fingerprints: the fingerprints of every version that the patch was written against.
        digests: SHA-256 of whole source files known to hold this target with one of those
            fingerprints. They only save time: a process that meets such a file does not parse it.
    """

    module: str
    attribute: str
    fingerprints: Collection[str]
    digests: Collection[str] = ()

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def targets_of(
    fingerprints: Mapping[tuple[str, str], Collection[str]],
    digests: Mapping[str, Collection[str]],
) -> tuple[Target, ...]:
    """Return the targets of a patch, made of two tables.

    Args:
        fingerprints: of each module and attribute, those of every version that was looked at.
        digests: of each of these modules, the SHA-256 of the files that were looked at.
    """
    return tuple(
        Target(module, attribute, known, digests[module])
        for (module, attribute), known in fingerprints.items()
    )


@dataclass(frozen=True)
class Patch:
    """A change that is attached to an installed Ray.

    Attributes:
        name: one lower-case word, what MANTARAY_PATCHES calls it.
        summary: one line for people.
        ray_versions: the Ray releases it serves, as a version specifier (">=2.48,<2.61").
        plain_since: the release that ships the plain form of the feature; only told to people.
        enough_since: the release from which Ray's own form is enough and nothing is patched.
        targets: everything of Ray it touches or relies on; all are checked before anything is
            touched.
        installers: for each Ray module to change, what changes it once it has been imported.
    """

    name: str
    summary: str
    ray_versions: str
    plain_since: str | None
    enough_since: str | None
    targets: tuple[Target, ...]
    installers: Mapping[str, Installer] = field(hash=False)


class State(str, Enum):
    """What became of a patch in this process.

    ARMED waits for Ray to import what it changes. ACTIVE has changed it. NATIVE is not needed, for
    this Ray's own form is enough. OFF was switched off. REFUSED was not or no longer attached.
    """

    ARMED = "armed"
    ACTIVE = "active"
    NATIVE = "native"
    OFF = "off"
    REFUSED = "refused"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class PatchStatus:
    """The state of one patch and the reason for it, in words."""

    name: str
    summary: str
    state: State
    why: str
