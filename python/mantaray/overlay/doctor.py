"""What the doctor finds: the Ray of the environment or of a wheel, and each patch with its state.

This module returns values. `mantaray.cli.doctor` prints them.
"""

from __future__ import annotations

import importlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mantaray.overlay import checks, known, versions
from mantaray.overlay.checks import Finding
from mantaray.overlay.decide import Problem, decide_version, look_up
from mantaray.overlay.hooks import OVERLAY
from mantaray.overlay.known import KnownRay
from mantaray.overlay.notices import NOTICES
from mantaray.overlay.patch import Patch, PatchStatus, State


class UnreadableWheelError(ValueError):
    """A file given as a wheel of Ray is not one that can be read."""


@dataclass(frozen=True)
class PatchDiagnosis:
    """One patch: its state, and what is in the place of each of its targets."""

    status: PatchStatus
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        ray_version: the version of the Ray examined; None when there is none.
        ray_path: where it is, the directory of the package or the wheel.
        problem: why nothing at all can be attached; None when something may be.
        patches: every patch that is known, by name.
    """

    ray_version: str | None
    ray_path: Path | None
    problem: Problem | None
    patches: tuple[PatchDiagnosis, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing was refused."""
        return self.problem is None and all(
            patch.status.state is not State.REFUSED for patch in self.patches
        )


def diagnose() -> Diagnosis:
    """Examine the installed Ray.

    This imports the modules that patches change, so that a patch that fails is shown.
    """
    NOTICES.muted = True
    OVERLAY.attach_early()
    OVERLAY.install()
    failures = _import_what_patches_wait_for()
    for patch in OVERLAY.patches():
        if patch.needs_native:
            OVERLAY.rely_on_native(patch.name)
    conditions = OVERLAY.conditions
    assert conditions is not None, "install has gathered them"
    ray = conditions.ray
    patches = []
    for patch, status in zip(OVERLAY.patches(), OVERLAY.status(), strict=True):
        if status.state is State.ARMED and status.name in failures:
            status = status._replace(state=State.REFUSED, why=failures[status.name])
        findings: tuple[Finding, ...] = ()
        if ray is not None and conditions.known is not None:
            findings = tuple(checks.examine(patch, ray.version, conditions.known, ray.sources))
        elif ray is not None and status.state is State.REFUSED:
            status, findings = _compare_unknown(status, patch, ray.version, ray.sources)
        patches.append(PatchDiagnosis(status, findings))
    return Diagnosis(
        ray_version=ray.version if ray else None,
        ray_path=ray.path if ray else None,
        problem=conditions.problem,
        patches=tuple(patches),
    )


def _compare_unknown(
    status: PatchStatus, patch: Patch, version: str, sources: versions.Sources
) -> tuple[PatchStatus, tuple[Finding, ...]]:
    """Return how a patch would fit an unknown Ray, which is compared with the last known one."""
    before = known_before(version)
    if before is None:
        return status, ()
    state, why = decide_version(patch, version, before)
    findings = tuple(checks.examine(patch, version, before, sources))
    differing = [str(finding.target) for finding in findings if finding.problem is not None]
    if state is not State.REFUSED:
        why = f"every target is as in Ray {before.release}"
    if differing:
        why = f"not as in Ray {before.release}: {checks.summarize(differing)}"
    return status._replace(why=why), findings


def known_before(version: str) -> KnownRay | None:
    """Return the last known release before an unknown version; None for a known one."""
    if known.why_unknown(version) is None:
        return None
    try:
        return known.nearest(version)
    except (OSError, ValueError):
        return None


def _import_what_patches_wait_for() -> dict[str, str]:
    """Return, for each patch whose modules cannot be imported, why."""
    failures = {}
    armed = {status.name for status in OVERLAY.status() if status.state is State.ARMED}
    for patch in OVERLAY.patches():
        for name in patch.installers if patch.name in armed else ():
            try:
                importlib.import_module(name)
            except Exception as error:
                failures[patch.name] = f"{name} cannot be imported ({error})"
    return failures


def diagnose_wheel(path: Path) -> Diagnosis:
    """Examine a wheel of Ray without installing it; settings do not count.

    Args:
        path: the wheel.

    Raises:
        UnreadableWheelError: it is no wheel of Ray, or damaged.
    """
    NOTICES.muted = True
    OVERLAY.discover()
    try:
        with zipfile.ZipFile(path) as wheel:
            sources = versions.WheelSources(wheel)
            version = versions.read_version(sources)
            if version is None:
                raise UnreadableWheelError(
                    f"{path} is not a wheel of Ray: no ray/_version.py in it"
                )
            reference, problem = look_up(version)
            patches = tuple(
                _diagnose_patch(patch, version, reference, problem, sources)
                for patch in OVERLAY.patches()
            )
    except (OSError, zipfile.BadZipFile) as error:
        raise UnreadableWheelError(f"{path} cannot be read as a wheel: {error}") from error
    return Diagnosis(version, path, problem, patches)


def _diagnose_patch(
    patch: Patch,
    version: str,
    reference: KnownRay | None,
    problem: Problem | None,
    sources: versions.Sources,
) -> PatchDiagnosis:
    if reference is None:
        why = problem.text if problem else ""
        status = PatchStatus(patch.name, patch.summary, State.REFUSED, why)
        return PatchDiagnosis(*_compare_unknown(status, patch, version, sources))
    state, why = decide_version(patch, version, reference)
    findings = tuple(checks.examine(patch, version, reference, sources))
    if state is State.ARMED:
        conflict = checks.summarize([f.problem for f in findings if f.problem is not None])
        state = State.REFUSED if conflict else State.ARMED
        why = conflict or "every target is as expected"
    return PatchDiagnosis(PatchStatus(patch.name, patch.summary, state, why), findings)
