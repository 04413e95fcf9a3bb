"""The table of known Rays is complete, and says nothing that the patches do not ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mantaray.overlay import known as known_rays
from mantaray.overlay.hooks import OVERLAY
from mantaray.overlay.known import KnownRay
from mantaray.overlay.patch import Patch
from mantaray.overlay.versions import serves
from packaging.specifiers import SpecifierSet
from packaging.version import Version

OVERLAY.discover()
PATCHES = {patch.name: patch for patch in OVERLAY.patches()}
RELEASES = known_rays.releases()


def known(release: str) -> KnownRay:
    """Return what the table holds about a release that is in it."""
    found = known_rays.read(release)
    assert found is not None
    return found


def is_native(patch: Patch, release: str) -> bool:
    """Return whether Ray's own form of the patch is enough on a release."""
    return patch.enough_since is not None and serves(f">={patch.enough_since}", release)


def test_every_release_from_the_oldest_to_the_newest_is_known() -> None:
    minors = {tuple(map(int, release.split(".")[:2])) for release in RELEASES}
    assert minors == {(2, minor) for minor in range(48, 61)}
    assert len(RELEASES) == 24


@pytest.mark.parametrize("release", RELEASES)
def test_an_accepted_patch_is_reviewed_target_for_target(release: str) -> None:
    """A target too few would be refused at run time; one too many hides that a patch has changed."""
    for name, reviewed in known(release).patches.items():
        patch = PATCHES[name]
        assert not is_native(patch, release), name
        wanted = {str(target) for target in patch.targets_on(release)}
        assert set(reviewed) == wanted, f"run: tools/adopt_ray {release} --accept {name}"


@pytest.mark.parametrize("release", RELEASES)
def test_every_patch_fits_every_release(release: str) -> None:
    needed = {name for name, patch in PATCHES.items() if not is_native(patch, release)}
    assert needed - set(known(release).patches) == set()


@pytest.mark.parametrize("release", RELEASES)
def test_the_files_of_a_release_are_those_of_its_targets(release: str) -> None:
    of = known(release)
    modules = {key.partition(":")[0] for reviewed in of.patches.values() for key in reviewed}
    assert set(of.files) == modules
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in of.files.values())
    prints = [value for reviewed in of.patches.values() for value in reviewed.values()]
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in prints)


def test_what_is_written_is_read_back_and_written_alike(tmp_path: Path) -> None:
    for release in RELEASES:
        path = known_rays.write(known(release), tmp_path)
        assert path.read_bytes() == (known_rays.DIRECTORY / path.name).read_bytes()
        assert known_rays.read(release, tmp_path) == known(release)
    assert known_rays.releases(tmp_path) == RELEASES


@pytest.mark.parametrize("version", ["2.48.0", "2.55", "2.54.9", "2.60.0rc1", "3.0.0.dev0"])
@pytest.mark.parametrize(
    "specifier",
    [">=2.50", "<2.55", ">=2.50,<2.55", ">=2.55.0", "<2.60", "==2.55", ">=2.48,!=2.55.0"],
)
def test_releases_of_a_target_are_those_of_the_specifier(version: str, specifier: str) -> None:
    wanted = SpecifierSet(specifier).contains(Version(version), prereleases=True)
    assert serves(specifier, version) is wanted
