"""Comparing a Ray's source files with what a patch was written against.

Nothing of Ray is imported for it. What was asked for and what was found comes back as values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mantaray.overlay.fingerprints import digest, fingerprints
from mantaray.overlay.patch import Target
from mantaray.overlay.versions import Sources


@dataclass(frozen=True)
class Finding:
    """One target and what is in its place.

    Attributes:
        target: what was asked for.
        found: the fingerprint found; None where it is missing or was not computed.
        digest: SHA-256 of the source file, or None when there is no such file.
        problem: why the target does not fit, in words; None when it fits.
    """

    target: Target
    found: str | None
    digest: str | None
    problem: str | None


def examine(
    targets: Iterable[Target], sources: Sources, trust_digests: bool = False
) -> list[Finding]:
    """Compare targets with the source files of a Ray.

    Args:
        targets: what to look for.
        sources: where to look.
        trust_digests: do not parse a file whose digest is known to be good.

    Returns:
        One finding a target, in the same order within a module.
    """
    by_module: dict[str, list[Target]] = {}
    for target in targets:
        by_module.setdefault(target.module, []).append(target)
    findings = []
    for module, group in by_module.items():
        findings += _examine_module(group, sources.read(module), trust_digests)
    return findings


def conflicts(targets: Iterable[Target], sources: Sources) -> str | None:
    """Return in one phrase why targets do not fit a Ray; None when all fit.

    This is the quick form for processes that start: files known by their digest are not parsed.
    """
    problems = [
        finding.problem
        for finding in examine(targets, sources, trust_digests=True)
        if finding.problem is not None
    ]
    return summarize(problems)


def summarize(problems: list[str]) -> str | None:
    """Return the first of several problems and how many more there are; None when there is none."""
    if not problems:
        return None
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return problems[0] + more


def _examine_module(
    targets: list[Target], source: bytes | None, trust_digests: bool
) -> list[Finding]:
    if source is None:
        return [Finding(t, None, None, f"this Ray has no source of {t.module}") for t in targets]
    file_digest = digest(source)
    trusted = [t for t in targets if trust_digests and file_digest in t.digests]
    rest = [t for t in targets if t not in trusted]
    findings = [Finding(t, None, file_digest, None) for t in trusted]
    if not rest:
        return findings
    try:
        found = fingerprints(source, [t.attribute for t in rest])
    except (SyntaxError, ValueError) as error:
        return findings + [
            Finding(t, None, file_digest, f"{t.module} cannot be read ({error})") for t in rest
        ]
    return findings + [
        Finding(t, found[t.attribute], file_digest, _mismatch(t, found[t.attribute])) for t in rest
    ]


def _mismatch(target: Target, found: str | None) -> str | None:
    if found in target.fingerprints:
        return None
    expected = " or ".join(sorted(target.fingerprints))
    return (
        f"{target} is not what the patch was written for "
        f"(expected {expected}, found {found or 'nothing of that name'})"
    )
