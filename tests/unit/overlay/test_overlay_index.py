"""The index of patches: what it says is what the modules say, and few modules are imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mantaray.overlay import Patch, Target, deferred
from mantaray.overlay.hooks import Overlay

REPOSITORY = Path(__file__).resolve().parents[3]
TARGETS = (Target("ray.a", "one"), Target("ray.b", "two", ">=2.50"), Target("ray.a", "three"))


def patch_named(name: str, **changes: object) -> Patch:
    """Return a patch whose installer notes nothing."""
    patch = Patch(
        name, "A patch", "2.50", None, TARGETS, {"ray.a": lambda module, done: None}, True
    )
    return patch._replace(**changes)  # type: ignore[arg-type]


def read(*patches: Patch) -> list[Patch]:
    """Return patches as an index describes them."""
    return deferred.read([deferred.entry_of("demo", patches)], {"demo"}, lambda name: patches[0])


def test_the_index_is_what_the_modules_say() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.patch_index", "--check"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_patch_of_the_index_has_everything_but_the_installers() -> None:
    patch = patch_named("demo")
    (found,) = read(patch)
    assert set(found.targets) == set(TARGETS)
    assert found._replace(targets=(), installers={}) == patch._replace(targets=(), installers={})
    assert list(found.installers) == ["ray.a"]
    assert deferred.same(found, patch)


@pytest.mark.parametrize(
    "change",
    [{"summary": "Another"}, {"targets": TARGETS[:2]}, {"needs_native": False}, {"installers": {}}],
)
def test_a_patch_that_is_not_as_the_index_says_is_not_taken_for_it(
    change: dict[str, object],
) -> None:
    overlay = Overlay()
    (found,) = read(patch_named("demo"))
    overlay.register(found)
    with pytest.raises(ValueError, match="two patches are called 'demo'"):
        overlay.register(patch_named("demo", **change))


def test_a_subpackage_that_is_not_there_has_no_patches() -> None:
    entry = deferred.entry_of("demo", [patch_named("demo")])
    assert deferred.read([entry], {"other"}, lambda name: patch_named(name)) == []
