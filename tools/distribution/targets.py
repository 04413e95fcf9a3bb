"""What the wheels are for, and where the headers of each Python come from.

Only headers are needed to build for a Python. They are taken from an interpreter of that version if
one is at hand (on PATH, in pyenv, or this one), else from Debian's archive, through apt, which
checks their signature.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.distribution import debian

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
# The glibc that bazel/zig.bzl links for, as the tags of wheels say it. (PEP 600 has both spellings.)
PLATFORM = "manylinux2014_{machine}.manylinux_2_17_{machine}"
AUDITED = "manylinux_2_17_{machine}"
# Suites of Debian that have the headers of a Python.
_DEBIAN_SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "sid"}
_INCLUDE = "import sysconfig; print(sysconfig.get_path('include'))"


def digits(python: str) -> str:
    """Return "310" for "3.10"."""
    return python.replace(".", "")


def interpreter(python: str) -> Path | None:
    """Return an interpreter of this version that is at hand, None if there is none."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = sorted(pyenv.glob(f"{python}.*/bin/python{python}"))
    # A shim of pyenv has the name of every version and runs only the chosen ones.
    if not found and (on_path := shutil.which(f"python{python}")) and "shims" not in on_path:
        found = [Path(on_path)]
    return found[-1] if found else None


def headers(python: str, scratch: Path) -> Path | None:
    """Return a directory with the headers of a Python, None if they cannot be had.

    Args:
        python: the version, "3.10".
        scratch: where downloaded ones are kept.
    """
    program = interpreter(python)
    if program is not None:
        asked = subprocess.run([program, "-c", _INCLUDE], capture_output=True, text=True)
        include = Path(asked.stdout.strip())
        if asked.returncode == 0 and (include / "Python.h").is_file():
            return include
    return _debian_headers(python, scratch)


def _debian_headers(python: str, scratch: Path) -> Path | None:
    suite = _DEBIAN_SUITES.get(python)
    if suite is None or not debian.available():
        return None
    target = scratch / f"python{python}"
    if (target / "Python.h").is_file():
        return target
    root = scratch / f"root{python}"
    try:
        debian.Suite(suite, "amd64", scratch).unpack(
            [f"libpython{python}-dev"], root, dependencies=False
        )
    except debian.DebianError as error:
        print(f"dist: no headers of Python {python} from Debian: {error}", file=sys.stderr)
        return None
    shutil.copytree(root / "usr/include" / f"python{python}", target, dirs_exist_ok=True)
    # Debian's pyconfig.h includes that of the machine, which a compiler for another does not see.
    shutil.copy(root / "usr/include/x86_64-linux-gnu" / f"python{python}" / "pyconfig.h", target)
    return target
