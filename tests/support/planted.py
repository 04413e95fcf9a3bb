"""Modules that somebody left in the directory in which a node is started, and which processes took them."""

from __future__ import annotations

from pathlib import Path

# Modules of the standard library that are one file each and that Python does not load at its start.
NAMES = ("argparse", "glob", "random", "shutil", "signal", "tempfile")
# It notes who runs it and then does what the real one does, since some of Ray's own processes take it.
_MODULE = """
import sysconfig
with open("/proc/self/cmdline") as command, open({marks!r}, "a") as marks:
    marks.write(command.read().replace("\\0", " ") + "\\n")
with open(sysconfig.get_path("stdlib") + "/" + __name__ + ".py") as real:
    exec(compile(real.read(), real.name, "exec"))
"""


def plant(directory: Path) -> None:
    """Put the modules into a directory, before anything is started there."""
    for name in NAMES:
        (directory / f"{name}.py").write_text(_MODULE.format(marks=str(_marks(directory))))


def takers(directory: Path) -> list[str]:
    """Return the command lines of the processes that took a planted module from a directory."""
    marks = _marks(directory)
    return marks.read_text().splitlines() if marks.exists() else []


def _marks(directory: Path) -> Path:
    return directory / "planted-modules-ran"
