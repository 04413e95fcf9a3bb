"""Decides whether a patch is attached at all, by the settings first and then by the version of Ray.

The decision depends only on the `Conditions`, which are gathered once at install.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from mantaray import settings
from mantaray.overlay import known as known_rays
from mantaray.overlay.checks import unreviewed
from mantaray.overlay.known import KnownRay
from mantaray.overlay.patch import Patch, State
from mantaray.overlay.versions import InstalledRay, serves
from mantaray.settings import SettingError


class Problem(NamedTuple):
    """Why nothing at all can be attached, and what to do about it, in words."""

    text: str
    hint: str


class Conditions(NamedTuple):
    """What decides about every patch of a process.

    Attributes:
        ray: the Ray that is there, None when there is none.
        known: the known release whose reviewed fingerprints count, None when nothing is known.
        picks: what MANTARAY_PATCHES says.
        disabled: whether MANTARAY_DISABLE switches everything off.
        problem: why nothing at all can be attached; None when something may be.
    """

    ray: InstalledRay | None
    known: KnownRay | None
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
        untested = settings.UNTESTED_RAY.read(environ)
        settings.REPORT_DIR.read(environ)
        _check_names(picks, names)
    except SettingError as error:
        problem = Problem(str(error), "`mantaray settings` lists every setting")
        return Conditions(ray, None, settings.PATCHES.default, False, problem)
    if ray is None:
        return Conditions(None, None, picks, disabled, no_ray())
    if disabled:
        return Conditions(ray, None, picks, disabled, None)
    known, problem_or_none = look_up(ray.version, untested)
    return Conditions(ray, known, picks, disabled, problem_or_none)


def no_ray() -> Problem:
    """Return the problem of an environment without Ray."""
    newest = (known_rays.releases() or ("",))[-1]
    return Problem(
        "no Ray is installed in this environment",
        f"install one that Mantaray knows: pip install 'ray=={newest}'",
    )


def look_up(version: str, untested: bool = False) -> tuple[KnownRay | None, Problem | None]:
    """Return the known release that counts for a Ray of this version, or the problem with it.

    Args:
        version: as Ray states it.
        untested: whether the last known release before it counts for an unknown one.
    """
    try:
        known = known_rays.read(version)
        before = None if known else known_rays.nearest(version)
    except (OSError, ValueError) as error:
        return None, Problem(str(error), "install Mantaray again")
    if known is not None or (untested and before is not None):
        return known or before, None
    why = known_rays.why_unknown(version) or f"Ray {version} is not known"
    hint = f"use a Ray from {known_rays.span()}, or a newer Mantaray"
    if before is not None:
        hint += (
            f"; {settings.UNTESTED_RAY.name}=1 attaches the patches whose targets are as in "
            f"Ray {before.release}"
        )
    return None, Problem(why, hint)


def decide(patch: Patch, conditions: Conditions) -> tuple[State, str]:
    """Return the first state of a patch and why; ARMED when it is to be attached.

    Raises:
        packaging.specifiers.InvalidSpecifier: a target of the patch states its releases wrongly.
        packaging.version.InvalidVersion: the patch states a release wrongly.
    """
    if conditions.disabled:
        return State.OFF, f"{settings.DISABLE.name} is set"
    if not is_picked(patch.name, conditions.picks):
        return State.OFF, f"{settings.PATCHES.name} is {','.join(conditions.picks)}"
    if conditions.problem is not None:
        return State.REFUSED, conditions.problem.text
    assert conditions.ray is not None, "no Ray is a problem of its own"
    assert conditions.known is not None, "an unknown Ray is a problem of its own"
    return decide_version(patch, conditions.ray.version, conditions.known)


def decide_version(patch: Patch, version: str, known: KnownRay) -> tuple[State, str]:
    """Return the state of a patch by the version of Ray, whatever the settings say.

    Args:
        patch: the patch.
        version: the version of the Ray at hand.
        known: what is known about it.

    Raises:
        packaging.specifiers.InvalidSpecifier: a target of the patch states its releases wrongly.
        packaging.version.InvalidVersion: the patch states a release wrongly.
    """
    if patch.enough_since is not None and serves(f">={patch.enough_since}", version):
        return State.NATIVE, f"Ray's own is enough since {patch.enough_since}"
    missing = unreviewed(patch, version, known)
    return (State.ARMED, "") if missing is None else (State.REFUSED, missing)


def is_picked(name: str, picks: Collection[str]) -> bool:
    """Return whether MANTARAY_PATCHES, split at its commas, asks for a patch."""
    included = {pick for pick in picks if not pick.startswith("-")}
    return f"-{name}" not in picks and (not included or not included.isdisjoint({name, "all"}))


def _check_names(picks: Collection[str], names: Collection[str]) -> None:
    unknown = {pick.removeprefix("-") for pick in picks} - {"all"} - set(names)
    if unknown:
        allowed = f"all, or some of: {', '.join(sorted(names)) or '(there is no patch)'}"
        raise SettingError(settings.PATCHES.name, ",".join(picks), f"{allowed}; -name excludes one")
