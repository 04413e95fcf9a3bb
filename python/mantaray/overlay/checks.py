"""Comparing a Ray's source files with what was reviewed for its release.

Nothing of Ray is imported for it. The results are values that say what was expected and found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mantaray.overlay.known import KnownRay
from mantaray.overlay.patch import Patch, Target
from mantaray.overlay.versions import Sources


class Finding(NamedTuple):
    """One target, and what was found in its place.

    Attributes:
        target: the target.
        expected: the reviewed fingerprint; None if nobody has reviewed the target for this release.
        found: the fingerprint found; None where it is missing or was not computed.
        digest: SHA-256 of the source file, or None when there is no such file.
        trusted: whether the file is, byte for byte, that of the official release.
        problem: why the target does not fit, in words; None if it fits.
    """

    target: Target
    expected: str | None
    found: str | None
    digest: str | None
    trusted: bool
    problem: str | None


def unreviewed(patch: Patch, version: str, known: KnownRay) -> str | None:
    """Return in one phrase which targets of a patch nobody has accepted for a release; None if all are.

    Args:
        patch: the patch.
        version: the version of the Ray at hand.
        known: what is known about it.

    Raises:
        packaging.specifiers.InvalidSpecifier: a target states its releases wrongly.
    """
    reviewed = known.reviewed(patch.name)
    missing = [str(each) for each in patch.targets_on(version) if str(each) not in reviewed]
    if not missing:
        return None
    # A patch that was never accepted lacks all of its targets, so their names tell nothing.
    which = f" ({summarize(missing)})" if reviewed else ""
    return f"it has not been adapted to Ray {version}{which}"


def examine(
    patch: Patch, version: str, known: KnownRay, sources: Sources, trust_digests: bool = False
) -> list[Finding]:
    """Compare the targets of a patch with the source files of a Ray.

    Args:
        patch: whose targets to look for.
        version: the version of the Ray at hand, which decides which targets apply.
        known: the release whose reviewed fingerprints count.
        sources: where to look.
        trust_digests: do not parse a file that is, byte for byte, that of the known release.

    Returns:
        One finding for each target, in the same order within a module.

    Raises:
        packaging.specifiers.InvalidSpecifier: a target states its releases wrongly.
    """
    reviewed = known.reviewed(patch.name)
    by_module: dict[str, list[Target]] = {}
    for target in patch.targets_on(version):
        by_module.setdefault(target.module, []).append(target)
    findings = []
    for module, group in by_module.items():
        file_digest = sources.digest(module)
        official = file_digest is not None and file_digest == known.files.get(module)
        file = _File(module, sources, file_digest, official)
        findings += _examine_file(file, group, reviewed, parse=not (official and trust_digests))
    return findings


def conflicts(patch: Patch, version: str, known: KnownRay, sources: Sources) -> str | None:
    """Return in one phrase why a patch does not fit a Ray; None when all of its targets fit.

    This is the quick form for processes that start: files of the official release are not parsed.
    """
    findings = examine(patch, version, known, sources, trust_digests=True)
    return summarize([finding.problem for finding in findings if finding.problem is not None])


def summarize(problems: Sequence[str]) -> str | None:
    """Return the first of several problems and how many more there are; None when there is none."""
    if not problems:
        return None
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return problems[0] + more


class _File(NamedTuple):
    """The source file of one module; it has no digest where this Ray has none."""

    module: str
    sources: Sources
    digest: str | None
    official: bool


def _examine_file(
    file: _File, targets: Sequence[Target], reviewed: Mapping[str, str], parse: bool
) -> list[Finding]:
    wanted = {target: reviewed.get(str(target)) for target in targets}
    if not parse and None not in wanted.values():
        return [Finding(t, wanted[t], None, file.digest, file.official, None) for t in targets]
    found, problem = _fingerprints(file, targets)
    return [
        Finding(
            target,
            expected,
            found.get(target.attribute),
            file.digest,
            file.official,
            problem or _mismatch(target, expected, found.get(target.attribute)),
        )
        for target, expected in wanted.items()
    ]


def _fingerprints(
    file: _File, targets: Sequence[Target]
) -> tuple[dict[str, str | None], str | None]:
    """Return the fingerprints of targets of one file, and why there are none."""
    # Only a file that is not the official one has to be parsed.
    from mantaray.overlay.fingerprints import fingerprints

    source = file.sources.read(file.module)
    if source is None:
        return {}, f"this Ray has no source of {file.module}"
    try:
        return fingerprints(source, [target.attribute for target in targets]), None
    except (SyntaxError, ValueError) as error:
        return {}, f"{file.module} cannot be read ({error})"


def _mismatch(target: Target, expected: str | None, found: str | None) -> str | None:
    if expected is None:
        return f"{target} has not been reviewed for this release"
    if found == expected:
        return None
    return (
        f"{target} is not what the patch was written for "
        f"(expected {expected}, found {found or 'nothing of that name'})"
    )
