"""Helper processes take no module from the working directory, from PYTHONPATH or from where they lie."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from mantaray.helpers import python_command

import mantaray
from tests.support.tidy import PACKAGE, REPOSITORY


def plant(directory: Path) -> None:
    """Put a module of every name of the standard library, and of our dependencies, into a directory."""
    names = {
        *sys.stdlib_module_names,
        "click",
        "packaging",
        "pip",
        "auditwheel",
        "mantaray",
    }
    for name in names:
        (directory / f"{name}.py").write_text(
            f"open({str(directory / 'ran')!r}, 'a').write({name!r} + '\\n')\n"
        )


def run(command: list[str], directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory."""
    environment = {**os.environ, **variables}
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def helper_modules() -> list[str]:
    """Return every module of Mantaray that is a program, by its `if __name__ == "__main__"`."""
    root = REPOSITORY / PACKAGE
    found = []
    for path in sorted(root.rglob("*_main.py")):
        if any(isinstance(node, ast.If) for node in ast.parse(path.read_text()).body):
            found.append("mantaray." + ".".join(path.relative_to(root).with_suffix("").parts))
    return [name for name in found if name != "mantaray.helper_main"]


def test_planted_modules_run_under_plain_dash_m(tmp_path: Path) -> None:
    """Shows that the trap works: this is how helpers were started before."""
    plant(tmp_path)
    run([sys.executable, "-m", "mantaray.spill.clean_main"], tmp_path)
    assert (tmp_path / "ran").exists()


def test_no_helper_takes_planted_modules(tmp_path: Path) -> None:
    plant(tmp_path)
    programs = helper_modules()
    assert "mantaray.spill.clean_main" in programs
    assert "mantaray.syncer.supervise_main" in programs
    for module in programs:
        # Arguments that let each of them come as far as its work.
        arguments = {"mantaray.syncer.supervise_main": ("0", str(tmp_path / "log"))}.get(module, ())
        run(python_command(module, *arguments), tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}")
        assert not (tmp_path / "ran").exists(), (module, (tmp_path / "ran").read_text())


def test_tools_of_the_wheel_builder_take_no_planted_modules(tmp_path: Path) -> None:
    plant(tmp_path)
    for tool in ("pip", "auditwheel"):
        done = run(python_command(tool, "--help"), tmp_path)
        assert not (tmp_path / "ran").exists(), (tool, (tmp_path / "ran").read_text())
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()


def test_a_helper_uses_the_mantaray_of_the_process_that_starts_it(tmp_path: Path) -> None:
    """A copy named by PYTHONPATH starts helpers of that copy, although they ignore PYTHONPATH."""
    copy = tmp_path / "mantaray"
    copy.mkdir()
    installed = Path(mantaray.__file__).parent
    for name in ("helpers.py", "helper_main.py"):
        (copy / name).write_text((installed / name).read_text())
    (copy / "__init__.py").write_text("")
    (copy / "tell_main.py").write_text(
        "import json, sys, mantaray\nprint(json.dumps([mantaray.__path__, sys.argv]))\n"
    )
    program = (
        "import subprocess; from mantaray.helpers import python_command;"
        "print(subprocess.check_output(python_command('mantaray.tell_main', 'a', ''), text=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path, argv = ast.literal_eval(done.stdout.strip())
    assert path == [str(copy)]
    assert argv == [str(copy / "tell_main.py"), "a", ""]
