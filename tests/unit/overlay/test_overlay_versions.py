"""Which releases of Ray a patch is attached to: known, unknown, older and damaged descriptions.

Each test runs in a world of its own, with a fake Ray and the real `mantaray.pth`.
"""

from __future__ import annotations

import pytest

from .world import ENGINE, PATCHED, STOCK, TELL, World, behaviour, speed_fingerprint


@pytest.mark.parametrize(
    "version", ["2.48.0", "2.49.2", "2.53.0", "2.60.0", "2.60", "2.60.0+mantaray.1"]
)
def test_each_supported_version_is_served(world: World, version: str) -> None:
    world.ray(version)
    world.demo_patch()
    assert world.ask(TELL)["states"] == {"demo": "active"}


@pytest.mark.parametrize(
    "version",
    [
        "1.13.0",
        "2.47.1",
        "2.48.0rc1",
        "2.48.1",
        "2.60.1",
        "2.60.0.post1",
        "2.60.0.1",
        "2.61.0",
        "2.61.0rc0",
        "3.0.0.dev0",
        "../2.60.0",
        "what?",
    ],
)
def test_an_unknown_version_is_left_as_it_came_with_one_line(world: World, version: str) -> None:
    world.ray(version)
    world.demo_patch()
    world.patch("raise RuntimeError", name="other")
    result = world.run(TELL)
    assert result.returncode == 0
    assert '"start": "stock"' in result.stdout
    assert '"demo": "refused"' in result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert version in result.stderr
    assert "nothing is patched and Ray runs as it came" in result.stderr


@pytest.mark.parametrize(
    ("rays", "version", "why"),
    [
        (">=2.50,<2.55", "2.49.2", "attached to ray.engine"),
        (">=2.50,<2.55", "2.50.0", "(ray.engine:fresh)"),
        (">=2.50,<2.55", "2.54.1", "(ray.engine:fresh)"),
        (">=2.50,<2.55", "2.55.0", "attached to ray.engine"),
        ("not a specifier", "2.55.0", "it states its releases wrongly"),
    ],
)
def test_a_target_counts_on_its_own_releases(
    world: World, rays: str, version: str, why: str
) -> None:
    """On those releases the patch is refused here, for nobody has reviewed the target."""
    world.ray(version)
    targets = f"(Target('ray.engine', 'Engine.speed'), Target('ray.engine', 'fresh', {rays!r}))"
    world.demo_patch(targets=targets)
    result = world.run(TELL)
    assert why in result.stdout
    assert len(result.stderr.splitlines()) == ("attached" not in why)


def test_a_patch_that_nobody_accepted_for_a_release_is_refused_on_it_alone(world: World) -> None:
    """The target is what it always was: the table decides, not a fingerprint of another release."""
    world.demo_patch()
    world.know({}, only=["2.55.1"])
    world.ray("2.55.1")
    result = world.run(TELL)
    assert '"states": {"demo": "refused"}' in result.stdout
    assert result.stderr == (
        "mantaray: demo is not attached: it has not been adapted to Ray 2.55.1; "
        "Ray runs as it came (see `mantaray doctor`)\n"
    )
    world.ray("2.55.0")
    assert world.ask(TELL)["states"] == {"demo": "active"}


def test_a_fingerprint_of_another_release_does_not_count(world: World) -> None:
    world.demo_patch()
    faster = ENGINE.replace("return 1", "return 3")
    world.know({"demo": {"ray.engine:Engine.speed": speed_fingerprint(faster)}}, only=["2.55.1"])
    world.ray("2.55.1", faster)
    assert world.ask(TELL)["states"] == {"demo": "active"}
    world.ray("2.55.0", faster)
    result = world.run(TELL)
    assert "ray.engine:Engine.speed is not what the patch was written for" in result.stderr


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"ray": "2.59.0", "files": {}, "patches": {}}'])
def test_a_damaged_table_is_one_line_and_ray_runs_as_it_came(world: World, damage: str) -> None:
    world.demo_patch()
    (world.mantaray / "overlay" / "rays" / "2.60.0.json").write_text(damage)
    result = world.run(TELL)
    assert '"start": "stock"' in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("mantaray: the description of Ray 2.60.0 is ")
    assert line.endswith("(install Mantaray again)")


def test_of_the_known_rays_only_the_one_at_hand_is_read(world: World) -> None:
    world.demo_patch()
    for path in (world.mantaray / "overlay" / "rays").glob("*.json"):
        if path.stem != "2.60.0":
            path.write_text("damaged")
    assert world.ask(TELL)["states"] == {"demo": "active"}


@pytest.mark.parametrize(("version", "state"), [("2.54.1", "active"), ("2.55.0", "native")])
def test_where_rays_own_is_enough_nothing_is_patched(
    world: World, version: str, state: str
) -> None:
    world.ray(version)
    world.demo_patch(enough_since="'2.55'")
    told = world.ask(TELL)
    assert told["states"] == {"demo": state}
    assert behaviour(told) == (STOCK if state == "native" else PATCHED)


@pytest.mark.parametrize("version", ["2.60.1", "2.61.0", "2.61.0rc0", "3.0.0.dev0", "2.54.2"])
def test_an_unknown_newer_ray_is_attached_only_if_asked_for(world: World, version: str) -> None:
    world.ray(version)
    world.demo_patch()
    assert '"start": "stock"' in world.run(TELL).stdout
    told = world.ask(TELL, MANTARAY_UNTESTED_RAY="1")
    assert (told["states"], behaviour(told)) == ({"demo": "active"}, PATCHED)


def test_an_unknown_newer_ray_with_another_target_stays_as_it_came(world: World) -> None:
    world.ray("2.61.0", ENGINE.replace("return 1", "return 3"))
    world.demo_patch()
    result = world.run(TELL, MANTARAY_UNTESTED_RAY="1")
    assert '"start": "stock"' in result.stdout
    assert "ray.engine:Engine.speed is not what the patch was written for" in result.stderr


def test_an_unknown_ray_is_compared_with_the_last_known_one_before_it(world: World) -> None:
    """2.54.2 is as 2.54.1 was, whatever the newest Ray looks like."""
    world.demo_patch()
    world.know({"demo": {"ray.engine:Engine.speed": "0" * 16}}, only=["2.55.0", "2.60.0"])
    world.ray("2.54.2")
    assert world.ask(TELL, MANTARAY_UNTESTED_RAY="1")["states"] == {"demo": "active"}
    world.ray("2.55.2")
    assert '"demo": "active"' in world.run(TELL, MANTARAY_UNTESTED_RAY="1").stdout
    world.ray("2.60.1")
    assert '"demo": "refused"' in world.run(TELL, MANTARAY_UNTESTED_RAY="1").stdout


@pytest.mark.parametrize("version", ["1.13.0", "2.47.1", "2.48.0rc1", "what?"])
def test_a_ray_older_than_every_known_one_is_never_attached(world: World, version: str) -> None:
    world.ray(version)
    world.demo_patch()
    result = world.run(TELL, MANTARAY_UNTESTED_RAY="1")
    assert '"start": "stock"' in result.stdout
    assert len(result.stderr.splitlines()) == 1


# --- Targets -----------------------------------------------------------------------------------
