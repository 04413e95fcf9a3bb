"""The settings that switch patches off, pick some of them, or are wrong.

Each test runs in a world of its own, with a fake Ray and the real `mantaray.pth`.
"""

from __future__ import annotations

import pytest

from .world import STOCK, TELL, World, behaviour


@pytest.mark.parametrize("value", ["1", "true", "TRUE"])
def test_disabled_everything_is_off(world: World, value: str) -> None:
    world.demo_patch()
    told = world.ask(TELL, MANTARAY_DISABLE=value)
    assert behaviour(told) == STOCK
    assert told["states"] == {"demo": "off"}
    assert told["why"] == {"demo": "MANTARAY_DISABLE is set"}


def test_disabled_an_unknown_ray_is_no_matter(world: World) -> None:
    world.ray("2.10.0")
    world.demo_patch()
    assert world.ask(TELL, MANTARAY_DISABLE="1")["states"] == {"demo": "off"}


@pytest.mark.parametrize(
    ("value", "on"),
    [
        ("", {"demo", "second", "third"}),
        ("all", {"demo", "second", "third"}),
        ("demo", {"demo"}),
        ("demo,third", {"demo", "third"}),
        (" demo , third ", {"demo", "third"}),
        ("-demo", {"second", "third"}),
        ("-demo,-third", {"second"}),
        ("all,-second", {"demo", "third"}),
        ("demo,-demo", set()),
    ],
)
def test_patches_are_picked_and_excluded(world: World, value: str, on: set[str]) -> None:
    world.demo_patch()
    for name in ("second", "third"):
        world.patch(
            f"""
            from mantaray.overlay import Patch, register
            register(Patch("{name}", "-", None, None, (),
                           {{"ray.other": lambda module, installation: None}}))
            """,
            name=name,
        )
    states = world.ask("import ray.other\n" + TELL, MANTARAY_PATCHES=value)["states"]
    assert {name for name, state in states.items() if state == "active"} == on
    assert {state for name, state in states.items() if name not in on} <= {"off"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MANTARAY_DISABLE", "yes"),
        ("MANTARAY_UNTESTED_RAY", "yes"),
        ("MANTARAY_PATCHES", "dmeo"),
        ("MANTARAY_PATCHES", "-dmeo"),
        ("MANTARAY_PATCHES", "demo,,"),
        ("MANTARAY_PATCHES", "-all"),
        ("MANTARAY_REPORT_DIR", "relative/path"),
    ],
)
def test_a_bad_setting_is_one_line_and_ray_runs_as_it_came(
    world: World, variable: str, value: str
) -> None:
    world.demo_patch()
    result = world.run(TELL, **{variable: value})
    assert result.returncode == 0
    assert '"start": "stock"' in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"mantaray: {variable} is set to {value!r}; allowed: ")
    assert "nothing is patched and Ray runs as it came" in line


def test_an_unknown_patch_is_answered_with_the_known_ones(world: World) -> None:
    world.demo_patch()
    result = world.run(TELL, MANTARAY_PATCHES="dmeo")
    assert "allowed: all, or some of: demo; -name excludes one" in result.stderr
