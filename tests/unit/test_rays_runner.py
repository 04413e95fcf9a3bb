"""`tools/test_rays`, with stand-ins for set-up and smoke: what is skipped, what is left, what fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.rays import REPOSITORY

# Makes both environments, as the real one does.
SETUP = """
echo "setup $*" >> ran
case "$1" in stock-*) mkdir -p .venvs/ray-${1#stock-} .venvs/stock-${1#stock-} ;; esac
"""
# The smoke of BAD fails; both kinds write their result.
PYTHON = """
case "$*" in
*--releases*) echo 1.0.0; echo 2.0.0 ;;
*pytest*)
  ls -d .venvs/ray-* .venvs/stock-* >> there
  echo "smoke $MANTARAY_TEST_RAYS" >> ran
  ok=true; [ "$MANTARAY_TEST_RAYS" != "$BAD" ] || ok=false
  mkdir -p $MANTARAY_TEST_RESULTS
  printf '{\\n  "source": "%s",\\n  "ok": %s\\n}\\n' $MANTARAY_TEST_SOURCE $ok \
    > $MANTARAY_TEST_RESULTS/$MANTARAY_TEST_RAYS-cp311.json
  [ $ok = true ] ;;
*) echo page >> ran ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with stand-ins."""
    for name, commands in (("tools/setup", SETUP), (".venv/bin/python", PYTHON)):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/bash\n{commands}\n")
        path.chmod(0o755)
    shutil.copy(REPOSITORY / "tools/test_rays", tmp_path / "tools")
    for name in ("build/wheel/.stamp", "tests/support/a.py", "tests/ray/test_rays_smoke.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    programs = tmp_path / "tests/ray/programs"
    programs.mkdir()
    for name in ("smoke", "logs_jobs", "spill_common", "serve_router_common"):
        (programs / f"{name}.py").write_text("")
    return tmp_path


def run(tree: Path, *releases: str, bad: str = "") -> tuple[int, list[str], str]:
    """Run it; return its status, what it ran, and what it said."""
    (tree / "ran").write_text("")
    done = subprocess.run(
        ["tools/test_rays", *releases],
        cwd=tree,
        env=os.environ | {"BAD": bad},
        capture_output=True,
        text=True,
    )
    return done.returncode, (tree / "ran").read_text().splitlines()[1:], done.stderr


def test_all_known_releases_run_one_environment_at_a_time_and_none_stays(tree: Path) -> None:
    status, ran, _ = run(tree)
    smokes = ["setup stock-1.0.0", "smoke 1.0.0", "setup stock-2.0.0", "smoke 2.0.0"]
    assert (status, ran) == (0, [*smokes, "page"])
    there = (tree / "there").read_text().split()
    assert there == [f".venvs/{kind}-{n}.0.0" for n in (1, 2) for kind in ("ray", "stock")]
    assert not list((tree / ".venvs").glob("*-*.0.0"))


def test_an_environment_that_was_there_before_stays(tree: Path) -> None:
    (tree / ".venvs/ray-1.0.0").mkdir(parents=True)
    assert run(tree, "1.0.0")[0] == 0
    assert [path.name for path in (tree / ".venvs").glob("*-1.0.0")] == ["ray-1.0.0"]


def test_an_interrupted_run_goes_on_where_it_was_and_leaves_no_environment(tree: Path) -> None:
    assert run(tree, "1.0.0")[0] == 0
    # As if it had ended in the middle of the second release.
    for kind in ("ray", "stock"):
        (tree / f".venvs/{kind}-2.0.0").mkdir()
        (tree / f".venvs/.of-test-rays/{kind}-2.0.0").touch()
    status, ran, said = run(tree)
    assert (status, ran) == (0, ["setup stock-2.0.0", "smoke 2.0.0", "page"])
    assert "1.0.0 passed with these sources before; skipped" in said
    assert not list((tree / ".venvs").glob("*-2.0.0"))


def test_changed_sources_run_everything_again(tree: Path) -> None:
    assert run(tree, "1.0.0")[0] == 0
    (tree / "build/wheel/.stamp").write_text("second")
    assert "smoke 1.0.0" in run(tree, "1.0.0")[1]


def test_a_failed_release_is_named_keeps_no_other_from_running_and_is_not_skipped(
    tree: Path,
) -> None:
    status, ran, said = run(tree, bad="1.0.0")
    assert status == 1
    assert "failed: 1.0.0" in said
    assert ran[-2:] == ["smoke 2.0.0", "page"]
    assert run(tree)[1] == ["setup stock-1.0.0", "smoke 1.0.0", "page"]
