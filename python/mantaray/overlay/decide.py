"""Whether a patch is to be attached at all: settings first, then the version of Ray.

Pure: what is decided follows from the `Conditions` alone, which are gathered once at install.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mantaray import settings
from mantaray.overlay.patch import Patch, State
from mantaray.overlay.versions import (
    NEWEST_RAY,
    OLDEST_RAY,
    InstalledRay,
    serves,
    why_unknown,
)
from mantaray.settings import SettingError


@dataclass(frozen=True)
class Problem:
    """Why nothing at all can be attached, and what to do about it, in words."""

    text: str
    hint: str


UNKNOWN_RAY_HINT = f"use a Ray from {OLDEST_RAY} to {NEWEST_RAY}, or a newer Mantaray"
NO_RAY = Problem(
    "no Ray is installed in this environment",
    f"install one that Mantaray knows: pip install 'ray=={NEWEST_RAY}'",
)


@dataclass(frozen=True)
class Conditions:
    """What decides about every patch of a process.

    Attributes:
        ray: the Ray that is there, None when there is none.
        picks: what MANTARAY_PATCHES says.
        disabled: whether MANTARAY_DISABLE switches everything off.
        problem: why nothing at all can be attached; None when something may be.
    """

    ray: InstalledRay | None
    picks: tuple[str, ...]
    disabled: bool
    problem: Problem | None


def gather(
    ray: InstalledRay | None, names: Collection[str], environ: Mapping[str, str] | None = None
) -> Conditions:
    """Gather the conditions from the settings and the Ray that is there.

    Args:
        ray: the Ray that is there.
        names: the names of all patches, which MANTARAY_PATCHES may use.
        environ: the settings; the environment of this process by default.
    """
    try:
        disabled = settings.DISABLE.read(environ)
        picks = settings.PATCHES.read(environ)
        settings.REPORT_DIR.read(environ)
        _check_names(picks, names)
    except SettingError as error:
        problem = Problem(str(error), "`mantaray settings` lists every setting")
        return Conditions(ray, settings.PATCHES.default, False, problem)
    if ray is None:
        return Conditions(ray, picks, disabled, NO_RAY)
    return Conditions(ray, picks, disabled, None if disabled else unknown_ray(ray.version))


def unknown_ray(version: str) -> Problem | None:
    """Return the problem with a Ray of this version; None when Mantaray knows it."""
    why = why_unknown(version)
    return None if why is None else Problem(why, UNKNOWN_RAY_HINT)


def decide(patch: Patch, conditions: Conditions) -> tuple[State, str]:
    """Return the first state of a patch and why; ARMED when it is to be attached.

    Raises:
        packaging.specifiers.InvalidSpecifier: the patch states its Ray versions wrongly.
        packaging.version.InvalidVersion: the patch states a release wrongly.
    """
    if conditions.disabled:
        return State.OFF, f"{settings.DISABLE.name} is set"
    if not is_picked(patch.name, conditions.picks):
        return State.OFF, f"{settings.PATCHES.name} is {','.join(conditions.picks)}"
    if conditions.problem is not None:
        return State.REFUSED, conditions.problem.text
    assert conditions.ray is not None, "no Ray is a problem of its own"
    return decide_version(patch, conditions.ray.version)


def decide_version(patch: Patch, version: str) -> tuple[State, str]:
    """Return what the version of Ray makes of a patch, whatever the settings say.

    Raises:
        packaging.specifiers.InvalidSpecifier: the patch states its Ray versions wrongly.
        packaging.version.InvalidVersion: the patch states a release wrongly.
    """
    unknown = why_unknown(version)
    if unknown is not None:
        return State.REFUSED, unknown
    if patch.enough_since is not None and serves(f">={patch.enough_since}", version):
        return State.NATIVE, f"Ray's own is enough since {patch.enough_since}"
    if not serves(patch.ray_versions, version):
        return State.REFUSED, f"it serves Ray {patch.ray_versions}, this is {version}"
    return State.ARMED, ""


def is_picked(name: str, picks: Collection[str]) -> bool:
    """Return whether MANTARAY_PATCHES, split at its commas, asks for a patch."""
    included = {pick for pick in picks if not pick.startswith("-")}
    return f"-{name}" not in picks and (not included or not included.isdisjoint({name, "all"}))


def _check_names(picks: Collection[str], names: Collection[str]) -> None:
    unknown = {pick.removeprefix("-") for pick in picks} - {"all"} - set(names)
    if unknown:
        allowed = f"all, or some of: {', '.join(sorted(names)) or '(there is no patch)'}"
        raise SettingError(settings.PATCHES.name, ",".join(picks), f"{allowed}; -name excludes one")
