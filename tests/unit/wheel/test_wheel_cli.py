"""`mantaray wheel` as a person meets it: path on stdout, words on stderr, errors with a hint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from mantaray.cli.main import main
from synthetic_ray import RayWheel


def run(*arguments: str) -> tuple[int, str, str]:
    """Run `mantaray` and return status, stdout and stderr."""
    done = CliRunner().invoke(main, ["wheel", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A custom wheel, made by the command with the Mantaray that is running."""
    source = RayWheel().write(tmp_path / "in")
    status, out, words = run(
        "--allow-refused", "--ray", "2.60.0", "--from", str(source), "-o", str(tmp_path / "out")
    )
    assert status == 0, words
    return Path(out.rstrip("\n"))


def test_building_prints_the_path_alone(custom: Path, tmp_path: Path) -> None:
    assert custom.is_file()
    assert custom.parent == tmp_path / "out"


def test_building_says_what_it_does_on_stderr(tmp_path: Path) -> None:
    source = RayWheel().write(tmp_path / "in")
    _, _, words = run("--allow-refused", "--from", str(source), "-o", str(tmp_path / "out"))
    assert "asking auditwheel" in words
    assert "writing ray-2.60.0+mantaray." in words


def test_damaged_input_is_an_error_and_a_hint(tmp_path: Path) -> None:
    source = RayWheel().write(tmp_path / "in")
    source.write_bytes(source.read_bytes()[:-50])
    status, out, words = run("--from", str(source), "-o", str(tmp_path / "out"))
    assert (status, out) == (1, "")
    error, hint = words.splitlines()[-2:]
    assert error.startswith(f"error: {source.name} is damaged: ")
    assert hint.startswith("hint: ")
    assert not list(tmp_path.glob("out/*"))


def test_a_ray_on_which_patches_would_be_refused_gets_no_inert_wheel(tmp_path: Path) -> None:
    source = RayWheel().write(tmp_path / "in")
    status, out, words = run("--from", str(source), "-o", str(tmp_path / "out"))
    assert (status, out) == (1, "")
    error, hint = words.splitlines()[-2:]
    assert error.startswith("error: on Ray 2.60.0 these patches would be refused: direct, gc, ")
    assert "(direct: this Ray has no source of ray._private.worker, and " in error
    assert "--allow-refused makes the wheel without these patches" in hint
    assert not list(tmp_path.glob("out/*"))


def test_building_without_saying_what(tmp_path: Path) -> None:
    status, _, words = run("-o", str(tmp_path))
    assert status == 1
    assert "error: neither a Ray version nor an official wheel is given" in words


def test_verify_prints_what_it_found(custom: Path) -> None:
    status, out, _ = run("verify", str(custom))
    assert status == 0
    assert "5 upstream files, unchanged" in out
    assert "METADATA, RECORD, WHEEL, entry_points.txt, top_level.txt" in out
    assert out.splitlines()[-1] == "ok"


def test_verify_as_json(custom: Path) -> None:
    status, out, _ = run("verify", "--json", str(custom))
    assert status == 0
    assert json.loads(out)["ok"] is True
    assert json.loads(out)["unchanged"] == 5


def test_verify_names_what_is_wrong_and_fails(custom: Path, tmp_path: Path) -> None:
    data = custom.read_bytes().replace(b"ray/scripts.py", b"ray/scripts.pz")
    custom.write_bytes(data)
    status, out, words = run("verify", str(custom))
    assert status == 1
    assert "MISSING     ray/scripts.py" in out
    assert "UNEXPECTED  ray/scripts.pz" in out
    assert words.startswith("error: ")
    assert "hint: " in words


def test_options_of_building_do_not_go_with_verify(custom: Path) -> None:
    status, _, words = run("--ray", "2.60.0", "verify", str(custom))
    assert status == 2
    assert "verify takes its options behind its name" in words
