"""Builds Mantaray's wheel: the native part comes from Bazel, `mantaray.pth` goes to the root.

What cannot be said in pyproject.toml is here and nothing else:

- `build_ext` runs Bazel for the interpreter that pip uses and takes the extension module that it
  made. A module that is ready already is taken with MANTARAY_NATIVE_PREBUILT=/path/to/_native.so
  instead, and then Bazel is not run. The relay is a distribution of its own (tools/distribution).
- `build_py` lays `mantaray.pth` beside the package, so that it lands at the root of site-packages,
  where the interpreter looks for such files, and so that pip removes it with the rest. The license
  goes into the package, which is what a custom wheel is made from.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import ExecError

ROOT = Path(__file__).resolve().parent
# Where it lies in the source tree: where it lies in the wheel.
COPIED = {"python/mantaray.pth": "mantaray.pth", "LICENSE": "mantaray/LICENSE"}
BAZEL_TARGET = "//src/mantaray/python:_native.so"
NATIVE_OUTPUT = Path("src/mantaray/python/_native.so")
PREBUILT = "MANTARAY_NATIVE_PREBUILT"


def run_bazel(bazel: str, *arguments: str) -> str:
    """Run Bazel in this tree and return its standard output; what it says goes to standard error.

    Raises:
        ExecError: Bazel ended with another status than 0.
    """
    done = subprocess.run(
        [bazel, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise ExecError(f"`bazel {arguments[0]}` failed with status {done.returncode}; see above")
    return done.stdout


def build_native() -> Path:
    """Build the extension module for this interpreter and return where it lies.

    Raises:
        ExecError: Bazel is missing, or the build failed.
    """
    bazel = shutil.which("bazel") or shutil.which("bazelisk")
    if bazel is None:
        raise ExecError(
            "Mantaray's native parts are built with Bazel and `bazel` is not on PATH: install "
            f"it (Debian and Ubuntu: bazel-bootstrap), or set {PREBUILT} to a ready _native.so"
        )
    options = ["-c", "opt", f"--repo_env=PYTHON_BIN_PATH={sys.executable}"]
    run_bazel(bazel, "build", *options, BAZEL_TARGET)
    # Asked for and not read through the bazel-bin link, which shows whatever was built last.
    output = Path(run_bazel(bazel, "info", *options, "bazel-bin").strip()) / NATIVE_OUTPUT
    if not output.is_file():
        raise ExecError(f"Bazel ended well but {output} does not exist")
    return output


def native() -> Path:
    """Return the module to ship: the prebuilt one if it is named, else Bazel's.

    Raises:
        ExecError: the prebuilt one does not exist, or the build failed.
    """
    if not os.environ.get(PREBUILT):
        return build_native()
    path = Path(os.environ[PREBUILT])
    if not path.is_file():
        raise ExecError(f"{PREBUILT} is set to {str(path)!r}, which is not a file")
    return path


def put(source: Path, target: Path) -> None:
    """Copy a module to where it is shipped from."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Bazel's outputs are read-only; a copy that is too could not be replaced by the next build.
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


class BuildExt(build_ext):
    """Takes the native part from Bazel instead of compiling it."""

    def build_extension(self, ext: Extension) -> None:
        """Put the module where setuptools expects this extension."""
        put(native(), Path(self.get_ext_fullpath(ext.name)))


class BuildPy(build_py):
    """Copies the packages, and the files of COPIED."""

    def run(self) -> None:
        """Copy everything into a build directory without leftovers of an earlier build."""
        if self.editable_mode:
            super().run()
            return
        # setuptools ships whatever lies there, also a module that the sources no longer have.
        shutil.rmtree(Path(self.build_lib) / "mantaray", ignore_errors=True)
        super().run()
        for source, target in COPIED.items():
            self.copy_file(str(ROOT / source), str(Path(self.build_lib) / target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name every file this command makes."""
        copied = [str(Path(self.build_lib) / target) for target in COPIED.values()]
        return [*super().get_outputs(include_bytecode), *copied]


setup(
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
    ext_modules=[Extension("mantaray._native", sources=[])],
)
