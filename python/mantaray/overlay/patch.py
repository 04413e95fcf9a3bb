"""Patches as values: what a patch changes, and its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from mantaray.overlay.versions import serves

if TYPE_CHECKING:
    from mantaray.overlay.installation import Installation

Installer = Callable[[ModuleType, "Installation"], None]


class Target(NamedTuple):
    """Something of Ray that a patch touches or relies on.

    The table of known Rays holds the reviewed fingerprint of a target for each release (see
    `mantaray.overlay.known`).

    Attributes:
        module: the full name of a Ray module, "ray._private.node".
        attribute: a function, class or variable in it, "Node.start" for what is in a class.
        rays: the releases on which the patch relies on it, as a version specifier (">=2.50"); empty
            for all. A target that differs between releases is several targets with disjoint `rays`.
    """

    module: str
    attribute: str
    rays: str = ""

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def targets_in(module: str, *attributes: str, rays: str = "") -> tuple[Target, ...]:
    """Return targets of one module.

    Args:
        module: the full name of a Ray module.
        attributes: as in `Target`.
        rays: as in `Target`, for all of them.
    """
    return tuple(Target(module, attribute, rays) for attribute in attributes)


class Patch(NamedTuple):
    """A change that is attached to an installed Ray.

    Attributes:
        name: one lower-case word, what MANTARAY_PATCHES calls it.
        summary: one line for users.
        plain_since: the release that ships the plain form of the feature; it is only shown to
            users.
        enough_since: the release from which Ray's own form is enough and nothing is patched.
        targets: everything of Ray that it changes or relies on, on any release. Those that apply to
            the present Ray are checked before anything is changed.
        installers: for each Ray module to change, the function that changes it after its import.
        needs_native: whether it uses Mantaray's native module. The overlay refuses it if that
        module is missing or visibly damaged. The patch itself calls `rely_on_native` before it uses
        the module, because only loading shows every kind of damage.
    """

    name: str
    summary: str
    plain_since: str | None
    enough_since: str | None
    targets: tuple[Target, ...]
    installers: Mapping[str, Installer]
    needs_native: bool = False

    def targets_on(self, version: str) -> tuple[Target, ...]:
        """Return the targets that apply to a version of Ray.

        Raises:
            packaging.specifiers.InvalidSpecifier: a target states its releases wrongly.
            packaging.version.InvalidVersion: the version is not one.
        """
        return tuple(t for t in self.targets if not t.rays or serves(t.rays, version))


class State(str, Enum):
    """The state of a patch in this process.

    An ARMED patch waits until Ray imports what it changes. An ACTIVE patch has changed it. A NATIVE
    patch is not needed, because this Ray's own form is enough. OFF patches were switched off.
    REFUSED patches were not attached, or were detached after a failure.
    """

    ARMED = "armed"
    ACTIVE = "active"
    NATIVE = "native"
    OFF = "off"
    REFUSED = "refused"

    def __str__(self) -> str:
        return self.value


class PatchStatus(NamedTuple):
    """The state of one patch and the reason for it, in words."""

    name: str
    summary: str
    state: State
    why: str
