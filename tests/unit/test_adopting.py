"""Adopting a release of Ray: what is shown, what is written, and what never is."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from mantaray.overlay import known as known_rays
from mantaray.overlay.patch import Patch, Target
from mantaray.overlay.versions import WheelSources

from tools import adopting, native_check
from tools.adopting import ACCEPTED, CHANGED, MISSING, UNCHANGED, Table, accept, difference, review

ENGINE = '''
class Engine:
    def speed(self, factor: int = 1) -> int:
        """Return how fast it is."""
        return 1

def start():
    return "stock"
'''
PATCH = Patch(
    name="demo",
    summary="for tests",
    plain_since=None,
    enough_since=None,
    targets=(
        Target("ray.engine", "Engine.speed"),
        Target("ray.engine", "start"),
        Target("ray.fresh", "added", rays=">=2.50"),
    ),
    installers={},
)
NATIVE = Patch("native", "for tests", None, "2.50", (Target("ray.gone", "gone"),), {})


def wheel(directory: Path, release: str, engine: str = ENGINE, fresh: str = "added = 1\n") -> Path:
    """Write something that looks like a wheel of Ray."""
    path = directory / f"ray-{release}-cp311-cp311-manylinux2014_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ray/__init__.py", "")
        archive.writestr("ray/_version.py", f'version = "{release}"\n')
        archive.writestr("ray/engine.py", engine)
        archive.writestr("ray/fresh.py", fresh)
        archive.writestr("ray/gone.py", "gone = 1\n")
    return path


def sources(directory: Path, release: str, engine: str = ENGINE) -> WheelSources:
    """Return the source files of such a wheel."""
    return WheelSources(zipfile.ZipFile(wheel(directory, release, engine)))


def adopt(table: Table, release: str, of: WheelSources) -> None:
    """Accept the demo patch for a release."""
    accept(review([PATCH], release, of, table), release, of, table)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """An empty table."""
    directory = tmp_path / "rays"
    directory.mkdir()
    return Table(directory)


def verdicts(table: Table, release: str, of: WheelSources) -> dict[str, tuple[str, str | None]]:
    """Return the verdict on each target of the demo patch, and the release it was held against."""
    (reviewed,) = review([PATCH], release, of, table)
    return {str(one.target): (one.verdict, one.against) for one in reviewed.targets}


def test_nothing_is_accepted_by_looking(table: Table, tmp_path: Path) -> None:
    of = sources(tmp_path, "2.51.0")
    assert set(verdicts(table, "2.51.0", of).values()) == {(CHANGED, None)}
    assert known_rays.releases(table.directory) == ()


def test_an_accepted_release_is_known_with_its_files_and_fingerprints(
    table: Table, tmp_path: Path
) -> None:
    of = sources(tmp_path, "2.51.0")
    adopt(table, "2.51.0", of)
    known = known_rays.read("2.51.0", table.directory)
    assert known is not None
    assert set(known.files) == {"ray.engine", "ray.fresh"}
    assert set(known.reviewed("demo")) == {
        "ray.engine:Engine.speed",
        "ray.engine:start",
        "ray.fresh:added",
    }
    assert set(verdicts(table, "2.51.0", of).values()) == {(ACCEPTED, None)}


def test_each_target_is_held_against_the_nearest_release_that_tells(
    table: Table, tmp_path: Path
) -> None:
    adopt(table, "2.48.0", sources(tmp_path, "2.48.0", ENGINE.replace("stock", "older")))
    adopt(table, "2.52.0", sources(tmp_path, "2.52.0"))
    of = sources(
        tmp_path, "2.51.0", ENGINE.replace("return 1", "return 3").replace("stock", "older")
    )
    assert verdicts(table, "2.51.0", of) == {
        "ray.engine:Engine.speed": (CHANGED, "2.48.0"),
        "ray.engine:start": (UNCHANGED, "2.48.0"),
        "ray.fresh:added": (UNCHANGED, "2.52.0"),
    }


def test_a_target_that_a_release_lacks_cannot_be_accepted(table: Table, tmp_path: Path) -> None:
    of = sources(tmp_path, "2.51.0", ENGINE.replace("def start", "def begin"))
    assert verdicts(table, "2.51.0", of)["ray.engine:start"] == (MISSING, None)
    with pytest.raises(adopting.AdoptionError, match=r"which has no ray\.engine:start"):
        adopt(table, "2.51.0", of)
    assert known_rays.releases(table.directory) == ()


def test_targets_of_other_releases_and_patches_that_ray_does_not_need_are_left_out(
    table: Table, tmp_path: Path
) -> None:
    of = sources(tmp_path, "2.49.0")
    assert "ray.fresh:added" not in verdicts(table, "2.49.0", of)
    assert [each.patch.name for each in review([PATCH, NATIVE], "2.49.0", of, table)] == [
        "demo",
        "native",
    ]
    assert [each.patch.name for each in review([PATCH, NATIVE], "2.50.0", of, table)] == ["demo"]


def test_accepting_one_patch_keeps_the_others(table: Table, tmp_path: Path) -> None:
    of = sources(tmp_path, "2.49.0")
    adopt(table, "2.49.0", of)
    accept(review([NATIVE], "2.49.0", of, table), "2.49.0", of, table)
    known = known_rays.read("2.49.0", table.directory)
    assert known is not None
    assert set(known.patches) == {"demo", "native"}
    assert set(known.files) == {"ray.engine", "ray.gone"}


def test_a_difference_shows_what_counts_and_nothing_else(tmp_path: Path) -> None:
    before = sources(tmp_path, "2.51.0")
    engine = ENGINE.replace("how fast it is", "its speed").replace("factor: int", "factor: float")
    speed = Target("ray.engine", "Engine.speed")
    names = ("Ray 2.51.0", "Ray 2.52.0")
    assert difference(speed, before, sources(tmp_path, "2.52.0", engine), names) == ""
    after = sources(tmp_path, "2.52.0", engine.replace("return 1", "return 3"))
    assert difference(speed, before, after, names).splitlines() == [
        "--- Ray 2.51.0",
        "+++ Ray 2.52.0",
        "@@ -1,2 +1,2 @@",
        " def speed(self, factor=1):",
        "-    return 1",
        "+    return 3",
    ]


def test_an_altered_file_of_a_known_release_is_told(table: Table, tmp_path: Path) -> None:
    adopt(table, "2.51.0", sources(tmp_path, "2.51.0"))
    same = sources(tmp_path, "2.51.0")
    assert adopting.altered_files("2.51.0", same, table) == []
    commented = sources(tmp_path, "2.51.0", ENGINE + "# a comment\n")
    assert adopting.altered_files("2.51.0", commented, table) == ["ray.engine"]


# --- The command, with the real patches


@pytest.fixture
def run(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Return a function that runs the command on a table of its own."""
    monkeypatch.setattr(known_rays, "DIRECTORY", table.directory)

    def run_it(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(adopting.main, [*arguments, "--wheels", str(tmp_path)])
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.output

    return run_it


def test_a_release_without_the_targets_is_shown_and_not_written(
    run: object, table: Table, tmp_path: Path
) -> None:
    assert callable(run)
    wheel(tmp_path, "2.61.0")
    status, said = run("2.61.0")
    assert status == 1
    assert "Ray 2.61.0 (not known yet)" in said
    assert "missing   ray._private.node:Node.start_raylet" in said
    status, said = run("2.61.0", "--accept", "spill")
    assert status == 2
    assert "error: spill cannot be accepted for Ray 2.61.0, which has no " in said
    assert known_rays.releases(table.directory) == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("2.61",), "'2.61' is not a release of Ray such as 2.61.0"),
        (("newest",), "'newest' is not a release of Ray"),
        (("2.61.0", "--accept", "spil"), "there is no patch called spil"),
        (("2.61.0", "2.61.1", "--wheel", "x.whl"), "--wheel goes with one release"),
        (("2.62.0",), "ray-2.62.0-cp311-cp311-manylinux2014_x86_64.whl is Ray 2.61.0, not 2.62.0"),
        (("2.63.0",), "cannot be read as a wheel"),
    ],
)
def test_a_bad_request_is_one_sentence(
    run: object, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert callable(run)
    path = wheel(tmp_path, "2.61.0")
    (tmp_path / path.name.replace("2.61.0", "2.62.0")).write_bytes(path.read_bytes())
    (tmp_path / path.name.replace("2.61.0", "2.63.0")).write_bytes(b"no zip")
    status, said = run(*arguments)
    assert status == 2
    assert words in said
    assert "Traceback" not in said


def test_library_that_is_not_rays_is_refused_with_the_function_that_it_lacks() -> None:
    libm = next(Path("/").glob("lib/*-linux-gnu/libm.so.6"), None) or Path("/lib64/libm.so.6")
    refused = native_check.check(libm)
    assert set(refused) == {*native_check.PATCHES, native_check.FINALIZERS}
    assert all("does not define" in (why or "") for why in refused.values())


def test_file_that_is_no_library_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "_raylet.so").write_text("not a library")
    with pytest.raises(native_check.NativeCheckError, match=r"invalid ELF header|too short"):
        native_check.check(tmp_path / "_raylet.so")


def test_wheel_whose_library_is_damaged_is_not_adopted(table: Table, tmp_path: Path) -> None:
    path = wheel(tmp_path, "2.51.0")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(native_check.MEMBER, "not a library")
    options = ["2.51.0", "--wheel", str(path), "--no-diff"]
    done = CliRunner().invoke(adopting.main, options)
    assert done.exit_code == 1
    assert "slots and self-checks: the check ended with status 1" in done.output
