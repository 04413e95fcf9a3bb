"""Adopting a release of Ray: compare it with the known ones, show what changed, write the table.

A patch fits a release only if a person has looked at every target of the patch in that release and has
accepted it. This program shows what there is to look at. It writes `overlay/rays/<release>.json` for
the patches named with --accept and changes nothing otherwise. The source text of Ray is printed to the
screen and written nowhere.
"""

from __future__ import annotations

import ast
import difflib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
from mantaray.overlay import known as known_rays
from mantaray.overlay.fingerprints import definitions, digest, fingerprints
from mantaray.overlay.hooks import OVERLAY
from mantaray.overlay.known import KnownRay
from mantaray.overlay.patch import Patch, Target
from mantaray.overlay.versions import Sources, WheelSources, read_version, serves
from packaging.version import Version

from tools import native_check

# From here on Ray's Python tells finalizers itself.
_TELLS_FINALIZERS = "2.57"
# Runs the live smoke on releases.
SMOKE = Path(__file__).parent / "test_rays"

ACCEPTED = "accepted"
UNCHANGED = "unchanged"
CHANGED = "changed"
MISSING = "missing"


class AdoptionError(Exception):
    """Why a release cannot be adopted, in one sentence."""


@dataclass(frozen=True)
class TargetReview:
    """What became of one target of a patch in a release.

    Attributes:
        target: the target.
        found: its fingerprint in this release; None if the release has no such thing.
        verdict: ACCEPTED (the table holds this fingerprint for this release), UNCHANGED (it holds the
            fingerprint for another release), CHANGED or MISSING.
        against: the release with the same fingerprint, or the nearest one to compare the target with.
    """

    target: Target
    found: str | None
    verdict: str
    against: str | None


@dataclass(frozen=True)
class PatchReview:
    """What a release makes of one patch.

    Attributes:
        patch: the patch.
        targets: each target that applies to this release.
    """

    patch: Patch
    targets: tuple[TargetReview, ...]

    @property
    def accepted(self) -> bool:
        """Whether the table holds this patch for this release, as the release is."""
        return all(each.verdict == ACCEPTED for each in self.targets)


@dataclass(frozen=True)
class Table:
    """The known Rays, as they are in a directory."""

    directory: Path

    def read(self, release: str) -> KnownRay:
        """Return what is known about a release, which may be nothing yet."""
        return known_rays.read(release, self.directory) or KnownRay(release, {}, {})

    def others(self, patch: Patch, release: str) -> list[KnownRay]:
        """Return the other releases that a patch fits, the nearest first, older before newer."""
        order = sorted({*known_rays.releases(self.directory), release}, key=Version)
        place = order.index(release)
        nearest = sorted(
            (other for other in order if other != release),
            key=lambda other: (abs(order.index(other) - place), order.index(other)),
        )
        return [known for known in map(self.read, nearest) if patch.name in known.patches]


def review(
    patches: Iterable[Patch], release: str, sources: Sources, table: Table
) -> list[PatchReview]:
    """Compare a release with what the table holds.

    Args:
        patches: the patches to look at. One that this release does not need is left out.
        release: its version.
        sources: its source files.
        table: the known Rays.
    """
    return [
        _review_patch(patch, release, sources, table)
        for patch in patches
        if patch.enough_since is None or not serves(f">={patch.enough_since}", release)
    ]


def _review_patch(patch: Patch, release: str, sources: Sources, table: Table) -> PatchReview:
    own = table.read(release).reviewed(patch.name)
    others = table.others(patch, release)
    targets = []
    for target in patch.targets_on(release):
        found = _fingerprint(target, sources)
        targets.append(_review_target(target, found, own.get(str(target)), patch.name, others))
    return PatchReview(patch, tuple(targets))


def _fingerprint(target: Target, sources: Sources) -> str | None:
    source = sources.read(target.module)
    return None if source is None else fingerprints(source, [target.attribute])[target.attribute]


def _review_target(
    target: Target, found: str | None, own: str | None, patch: str, others: list[KnownRay]
) -> TargetReview:
    before = {known.release: known.reviewed(patch).get(str(target)) for known in others}
    nearest = next((release for release, each in before.items() if each), None)
    if found is None:
        return TargetReview(target, None, MISSING, nearest)
    if found == own:
        return TargetReview(target, found, ACCEPTED, None)
    alike = next((release for release, each in before.items() if each == found), None)
    if alike is not None:
        return TargetReview(target, found, UNCHANGED, alike)
    return TargetReview(target, found, CHANGED, nearest)


def accept(
    reviews: Iterable[PatchReview], release: str, sources: Sources, table: Table
) -> KnownRay:
    """Write the table with these patches accepted for a release.

    Args:
        reviews: of the patches to accept. Other patches keep their state.
        release: its version.
        sources: its source files.
        table: the known Rays.

    Returns:
        What is known about the release now.

    Raises:
        AdoptionError: a target of one of the patches is missing in this release.
    """
    patches = {name: dict(each) for name, each in table.read(release).patches.items()}
    for each in reviews:
        missing = [str(one.target) for one in each.targets if one.found is None]
        if missing:
            raise AdoptionError(
                f"{each.patch.name} cannot be accepted for Ray {release}, which has no "
                + " and no ".join(missing)
            )
        patches[each.patch.name] = {str(t.target): t.found or "" for t in each.targets}
    modules = sorted({key.partition(":")[0] for each in patches.values() for key in each})
    files = {module: digest(source) for module in modules if (source := sources.read(module))}
    known = KnownRay(release, files, patches)
    known_rays.write(known, table.directory)
    return known


class _WhatCounts(ast.NodeTransformer):
    """Takes away what a fingerprint does not see: docstrings, annotations of arguments and results."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._strip(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._strip(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._strip(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def _strip(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if not isinstance(node, ast.ClassDef):
            node.returns = None
        return node


def what_counts(source: bytes | None, attribute: str) -> list[str]:
    """Return the lines of a definition without comments, layout, docstrings and annotations.

    Args:
        source: the text of a module, None if there is no such module.
        attribute: where the definition is in it, as in a `Target`.
    """
    nodes = definitions(source or b"", attribute)
    return "\n".join(ast.unparse(_WhatCounts().visit(node)) for node in nodes).splitlines()


def difference(target: Target, before: Sources, after: Sources, names: tuple[str, str]) -> str:
    """Return how what counts in a target differs between two releases, as a unified diff.

    Args:
        target: the target.
        before: the source files of one release.
        after: those of the other.
        names: of the two releases.
    """
    old, new = (what_counts(each.read(target.module), target.attribute) for each in (before, after))
    return "\n".join(difflib.unified_diff(old, new, *names, "", "", 4, ""))


def altered_files(release: str, sources: Sources, table: Table) -> list[str]:
    """Return the modules whose files are not those that the table holds for a release.

    Args:
        release: its version.
        sources: its source files.
        table: the known Rays.
    """
    return [
        module
        for module, expected in table.read(release).files.items()
        if digest(sources.read(module) or b"") != expected
    ]


# --- Wheels


class Wheels:
    """Official wheels of Ray: given ones, those in a directory, and downloads kept for this run."""

    def __init__(self, given: Mapping[str, Path], directory: Path | None, stack: ExitStack) -> None:
        """Keep where to look.

        Args:
            given: wheels by release.
            directory: where other wheels are, if anywhere.
            stack: closes what was opened, and removes what was downloaded.
        """
        self._given = given
        self._directory = directory
        self._stack = stack
        self._opened: dict[str, WheelSources] = {}

    def open(self, release: str) -> WheelSources:
        """Return the source files of a release.

        Raises:
            AdoptionError: there is no such wheel, or it is of another release.
        """
        if release not in self._opened:
            self._opened[release] = self._open(release)
        return self._opened[release]

    def _open(self, release: str) -> WheelSources:
        path = self._given.get(release) or self._at_hand(release) or self._download(release)
        try:
            wheel = self._stack.enter_context(zipfile.ZipFile(path))
        except (OSError, zipfile.BadZipFile) as error:
            raise AdoptionError(f"{path} cannot be read as a wheel: {error}") from error
        sources = WheelSources(wheel)
        version = read_version(sources)
        if version != release:
            raise AdoptionError(f"{path} is Ray {version}, not {release}")
        return sources

    def library(self, release: str) -> Path | None:
        """Return the compiled library of a release, unpacked; None if its wheel has none.

        Raises:
            AdoptionError: there is no such wheel, or it is of another release.
        """
        wheel = self.open(release).wheel
        if native_check.MEMBER not in wheel.namelist():
            return None
        scratch = tempfile.TemporaryDirectory(prefix="adopt-ray-")
        directory = self._stack.enter_context(scratch)
        return Path(wheel.extract(native_check.MEMBER, directory))

    def _at_hand(self, release: str) -> Path | None:
        found = sorted(self._directory.glob(f"ray-{release}-*.whl")) if self._directory else []
        return found[0] if found else None

    def _download(self, release: str) -> Path:
        from mantaray.wheel.download import download_official
        from mantaray.wheel.errors import WheelError

        scratch = tempfile.TemporaryDirectory(prefix="adopt-ray-")
        directory = Path(self._stack.enter_context(scratch))
        click.echo(f"downloading the official wheel of Ray {release}", err=True)
        try:
            return download_official(release, directory)
        except WheelError as error:
            raise AdoptionError(str(error)) from error


# --- The command


@click.command()
@click.argument("releases", nargs=-1, required=True, metavar="RELEASE...")
@click.option(
    "--wheel",
    type=click.Path(path_type=Path),
    help="The official wheel of the one release, if you have it.",
)
@click.option(
    "--wheels",
    type=click.Path(path_type=Path, file_okay=False),
    help="A directory of official wheels. pip downloads those that are not there.",
)
@click.option(
    "--accept",
    "accepted",
    metavar="PATCH[,PATCH...]",
    help="Accept these patches for the releases ('all' for every patch) and write the table. "
    "Do so only after you have read every changed target.",
)
@click.option("--diff/--no-diff", default=True, help="Show what changed. On by default.")
@click.option(
    "--native/--no-native",
    default=True,
    help="Attach everything native to the release's compiled library, in a process of its own, to check "
    "slots and layouts. On by default; the wheel must be for this Python.",
)
@click.option("--smoke", is_flag=True, help="Run the live smoke on the releases at the end.")
def main(
    releases: tuple[str, ...],
    wheel: Path | None,
    wheels: Path | None,
    accepted: str | None,
    diff: bool,
    native: bool,
    smoke: bool,
) -> None:
    """Compare releases of Ray with the known ones, and accept patches for them.

    RELEASE is a version such as 2.61.0, or `known` for every release in the table. The exit status is 0
    only if every patch is accepted for every release, and the smoke passed if it was asked for.
    """
    table = Table(known_rays.DIRECTORY)
    names = _expand(releases)
    if wheel is not None and len(names) != 1:
        raise click.UsageError("--wheel goes with one release; use --wheels for several")
    given = {names[0]: wheel} if wheel is not None else {}
    try:
        patches = _patches()
        with ExitStack() as stack:
            source = Wheels(given, wheels, stack)
            clean = [_adopt(name, patches, accepted, diff, source, table, native) for name in names]
    except AdoptionError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    passed = not smoke or subprocess.run([SMOKE, *names], check=False).returncode == 0
    sys.exit(0 if all(clean) and passed else 1)


def _patches() -> list[Patch]:
    OVERLAY.discover()
    if OVERLAY.broken:
        raise AdoptionError("; ".join(OVERLAY.broken.values()))
    return OVERLAY.patches()


def _expand(releases: tuple[str, ...]) -> list[str]:
    names: list[str] = []
    for release in releases:
        names += known_rays.releases() if release == "known" else [release]
    for name in names:
        if known_rays.release_of(name) != name:
            raise click.UsageError(f"{name!r} is not a release of Ray such as 2.61.0")
    return names


def _adopt(
    release: str,
    patches: list[Patch],
    accepted: str | None,
    diff: bool,
    wheels: Wheels,
    table: Table,
    native: bool,
) -> bool:
    """Review one release, print the review, accept what was asked for; return whether it is clean."""
    sources = wheels.open(release)
    reviews = review(patches, release, sources, table)
    chosen = _chosen(reviews, accepted)
    state = "known" if known_rays.read(release, table.directory) else "not known yet"
    click.echo(f"\nRay {release} ({state})")
    shown: set[Target] = set()
    for each in reviews:
        click.echo(_line(each))
        for one in each.targets if not each.accepted else ():
            click.echo(f"    {one.verdict:<9} {one.target}" + _against(one))
            if diff and one.verdict == CHANGED and one.against and one.target not in shown:
                shown.add(one.target)
                names = (f"Ray {one.against}", f"Ray {release}")
                click.echo(difference(one.target, wheels.open(one.against), sources, names))
    fits = _check_native(release, patches, wheels) if native else True
    if chosen:
        accept(chosen, release, sources, table)
        click.echo(f"  accepted for Ray {release}: " + ", ".join(r.patch.name for r in chosen))
    altered = altered_files(release, sources, table)
    for module in altered:
        click.echo(f"  the file of {module} is not the one in the table; accept its patches again")
    return fits and not altered and all(each.accepted or each in chosen for each in reviews)


def _check_native(release: str, patches: list[Patch], wheels: Wheels) -> bool:
    """Try everything native on a release's library, print what came of it; return whether all fits."""
    library = wheels.library(release)
    if library is None:
        return True
    needed = [
        patch.name
        for patch in patches
        if patch.name in native_check.PATCHES
        and (patch.enough_since is None or not serves(f">={patch.enough_since}", release))
    ]
    if not serves(f">={_TELLS_FINALIZERS}", release):
        needed.append(native_check.FINALIZERS)
    try:
        refused = native_check.check(library)
    except native_check.NativeCheckError as error:
        click.echo(f"  slots and self-checks: {error}")
        return False
    finally:
        # Some hundred megabytes each.
        library.unlink()
    for name in needed:
        click.echo(f"  slots and self-checks of {name}: " + (refused[name] or "as expected"))
    return not any(refused[name] for name in needed)


def _chosen(reviews: list[PatchReview], accepted: str | None) -> list[PatchReview]:
    if accepted is None:
        return []
    names = {name.strip() for name in accepted.split(",")}
    unknown = names - {"all"} - {patch.name for patch in OVERLAY.patches()}
    if unknown:
        raise AdoptionError(f"there is no patch called {', '.join(sorted(unknown))}")
    return [each for each in reviews if "all" in names or each.patch.name in names]


def _line(reviewed: PatchReview) -> str:
    counts = {
        verdict: sum(one.verdict == verdict for one in reviewed.targets)
        for verdict in (ACCEPTED, UNCHANGED, CHANGED, MISSING)
    }
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    state = "accepted" if reviewed.accepted else f"to review: {words}"
    return f"  {reviewed.patch.name:<10} {state}"


def _against(one: TargetReview) -> str:
    if one.against is None or one.verdict == ACCEPTED:
        return ""
    return f" ({'as in' if one.verdict == UNCHANGED else 'compared with'} {one.against})"


if __name__ == "__main__":
    main(prog_name="tools/adopt_ray")
