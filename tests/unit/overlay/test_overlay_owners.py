"""Who owns the package directory: ours alone, or another project of the same name too."""

from __future__ import annotations

import re

from .world import REPOSITORY, World


def distribution(world: World, name: str, version: str) -> None:
    """Record a distribution that installed the package directory."""
    info = world.site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("mantaray.pth,,\nmantaray/__init__.py,sha256=x,1\n")


def test_our_own_distribution_alone_is_no_problem(world: World) -> None:
    distribution(world, "ray_mantaray", "0.2.0")
    world.demo_patch()
    result = world.cli("doctor")
    assert (result.returncode, result.stderr) == (0, "")


def test_another_project_that_replaced_our_files_is_named(world: World) -> None:
    distribution(world, "ray_mantaray", "0.2.0")
    distribution(world, "mantaray", "0.3.0")
    # What that project's package holds: no version, and none of our names.
    (world.mantaray / "__init__.py").write_text('__all__ = ["ray_tracing"]\n')
    world.demo_patch()
    result = world.cli("doctor")
    assert result.returncode == 1
    assert result.stdout.startswith("Mantaray (replaced), Ray 2.60.0 at ")
    assert result.stderr == (
        "error: mantaray 0.3.0, which is another project, is installed into the same directory as "
        f"Mantaray ({world.mantaray}), and each replaces files of the other\n"
        "hint: pip uninstall mantaray, then install ray-mantaray again with pip's "
        "--force-reinstall\n"
    )


def test_another_project_elsewhere_is_not_blamed(world: World) -> None:
    distribution(world, "mantaray", "0.3.0")
    elsewhere = world.site / "elsewhere"
    elsewhere.mkdir()
    (world.site / "mantaray-0.3.0.dist-info").rename(elsewhere / "mantaray-0.3.0.dist-info")
    (world.site / "z.pth").write_text(f"{elsewhere}\n")
    world.demo_patch()
    assert world.cli("doctor").returncode == 0


def test_custom_wheel_and_ours_in_one_environment_are_told(world: World) -> None:
    distribution(world, "ray_mantaray", "0.2.0")
    distribution(world, "ray", "2.60.0+mantaray.0.2.0")
    world.demo_patch()
    result = world.cli("doctor")
    assert result.returncode == 1
    assert "ray 2.60.0+mantaray.0.2.0 and ray-mantaray 0.2.0 are both installed" in result.stderr
    assert "hint: pip uninstall ray-mantaray, then" in result.stderr


# `pip install mantaray`, with options, extras, a version or quotes, and a requirement of that name
# with a version or an extra: another project on PyPI.
STRANGER = re.compile(
    r"""(?:pip3?|uv) (?:install|download|wheel|add)(?: -\S+)* ['"]?mantaray(?![-\w./])"""
    r"""|(?<![-\w./'`])mantaray(?:\[\w+\]| ?(?:[=~]=|>=) ?\d)"""
)
TOLD = (".py", ".md", ".toml", ".yaml", ".yml", ".cc", ".h", ".txt", "")


def test_nothing_tells_anybody_to_install_another_projects_package() -> None:
    assert STRANGER.search("pip install -U 'mantaray[wheel]'")
    assert STRANGER.search("pip download mantaray")
    assert STRANGER.search("- mantaray==0.2.0")
    assert not STRANGER.search("pip install ray-mantaray")
    assert not STRANGER.search("ray-mantaray-relay==0.2.0, ray-mantaray[relay]")
    trees = [
        REPOSITORY / name for name in ("python", "docs", "examples", "benchmarks", "src", "tools")
    ]
    paths = [path for tree in trees for path in tree.rglob("*")] + [*REPOSITORY.glob("*")]
    told = [path for path in paths if path.suffix in TOLD and path.is_file()]
    assert len(told) > 100
    # A sentence may be wrapped between the two words.
    wrong = {
        str(path.relative_to(REPOSITORY))
        for path in told
        if STRANGER.search(re.sub(r'["\s]+', " ", path.read_text("utf-8", "replace")))
    }
    assert wrong == set()
