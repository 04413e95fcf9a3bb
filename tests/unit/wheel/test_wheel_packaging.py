"""Mantaray's own wheel: `.pth` at the root, a platform tag, clear words when it cannot be built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from mantaray.wheel.contents import installed_contents
from mantaray.wheel.metadata import CONSOLE_SCRIPT
from synthetic_ray import PYTHON

import mantaray

ROOT = Path(__file__).resolve().parents[3]
COPIED = ("pyproject.toml", "setup.py", "LICENSE", "MANIFEST.in", "python")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the source tree, so that nothing is built in the real one."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            leave_out = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
            shutil.copytree(source, tree / name, ignore=leave_out)
        else:
            shutil.copy(source, tree)
    (tree / "README.md").write_text("Mantaray\n")
    return tree


def build(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pip's build of the tree into tree/dist."""
    # Not isolated: the setuptools of the environment of the tests builds, nothing is fetched.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["-w", "dist", "."]
    return subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def everything(directory: Path) -> set[Path]:
    """Return all that is below a directory but an empty site-packages, which pip removes."""
    return {path for path in directory.rglob("*") if path.name != "site-packages"}


@pytest.fixture
def prebuilt() -> str:
    """The extension module of the Mantaray that is running."""
    return str(installed_contents().natives[0].source)


def test_wheel_has_pth_native_part_and_platform_tag(tree: Path, prebuilt: str) -> None:
    done = build(tree, MANTARAY_NATIVE_PREBUILT=prebuilt)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    machine = sysconfig.get_platform().replace("-", "_")
    assert wheel.name == f"ray_mantaray-{mantaray.__version__}-{PYTHON}-{PYTHON}-{machine}.whl"
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        native = f"mantaray/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
        assert file.read(native) == Path(prebuilt).read_bytes()
        assert file.read("mantaray.pth") == (ROOT / "python" / "mantaray.pth").read_bytes()
        dist_info = f"ray_mantaray-{mantaray.__version__}.dist-info"
        scripts = file.read(f"{dist_info}/entry_points.txt").decode()
    assert {"mantaray/LICENSE", "mantaray/NOTICE", "mantaray/py.typed"} <= names
    # The custom wheel adds the same command from a line of its own.
    assert CONSOLE_SCRIPT in scripts.splitlines()


def test_install_works_and_uninstall_leaves_nothing(
    tree: Path, prebuilt: str, tmp_path: Path
) -> None:
    done = build(tree, MANTARAY_NATIVE_PREBUILT=prebuilt)
    assert done.returncode == 0, done.stderr
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    before = everything(venv)
    pip = [sys.executable, "-m", "pip", "-q", "--python", str(venv / "bin" / "python")]
    (wheel,) = (tree / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    code = "import sys; print('mantaray.overlay.bootstrap' in sys.modules)"
    done = subprocess.run(
        [venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
    subprocess.run([*pip, "uninstall", "-y", "ray-mantaray"], check=True)
    assert everything(venv) == before


def test_module_removed_from_the_sources_is_not_shipped(tree: Path, prebuilt: str) -> None:
    extra = tree / "python" / "mantaray" / "gone.py"
    extra.write_text('"""Soon gone."""\n')
    assert build(tree, MANTARAY_NATIVE_PREBUILT=prebuilt).returncode == 0
    extra.unlink()
    assert build(tree, MANTARAY_NATIVE_PREBUILT=prebuilt).returncode == 0
    (wheel,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert "mantaray/gone.py" not in file.namelist()


def test_bazel_missing_is_one_sentence(tree: Path, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    done = build(tree, PATH=str(empty), MANTARAY_NATIVE_PREBUILT="")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "is not on PATH" in line]
    assert "error: Mantaray's native parts are built with Bazel" in line
    assert "bazel-bootstrap" in line
    assert not list(tree.glob("dist/*.whl"))


def test_bazel_failing_is_said(tree: Path, tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "bazel"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho the compiler said no >&2\nexit 37\n")
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"
    done = build(tree, PATH=path, MANTARAY_NATIVE_PREBUILT="")
    assert done.returncode != 0
    assert "the compiler said no" in done.stderr
    assert "error: `bazel build` failed with status 37" in done.stderr


def test_bazel_is_asked_for_this_interpreter(tree: Path, tmp_path: Path, prebuilt: str) -> None:
    output = tmp_path / "out" / "src" / "mantaray" / "python" / "_native.so"
    output.parent.mkdir(parents=True)
    # Read-only, as Bazel leaves its outputs.
    shutil.copy(prebuilt, output)
    output.chmod(0o555)
    fake = tmp_path / "bin" / "bazel"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ $1 = build ] || echo {tmp_path}/out\n'
    )
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"
    for _ in range(2):
        done = build(tree, PATH=path, MANTARAY_NATIVE_PREBUILT="")
        assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    options = f"-c opt --repo_env=PYTHON_BIN_PATH={sys.executable}"
    assert calls[:2] == [
        f"build {options} //src/mantaray/python:_native.so",
        f"info {options} bazel-bin",
    ]


def test_prebuilt_module_missing_is_one_sentence(tree: Path) -> None:
    done = build(tree, MANTARAY_NATIVE_PREBUILT="/nowhere/_native.so")
    assert done.returncode != 0
    wanted = "MANTARAY_NATIVE_PREBUILT is set to '/nowhere/_native.so', which is not a file"
    assert wanted in done.stderr


@pytest.mark.parametrize("left", [(), ("__init__.py",), ("__init__.py", "overlay")])
def test_interpreter_starts_with_a_half_removed_mantaray(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    shutil.copy(ROOT / "python" / "mantaray.pth", site)
    package = site / "mantaray"
    package.mkdir()
    for name in left:
        if name == "overlay":
            (package / name).mkdir()
            (package / name / "__init__.py").write_text("from mantaray.overlay import gone\n")
        else:
            (package / name).write_text("")
    command = [str(venv / "bin" / "python"), "-c", "print('started')"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("started\n", "")
