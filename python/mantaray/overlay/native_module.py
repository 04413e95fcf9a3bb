"""Whether Mantaray's native module loads in this environment, checked before a patch relies on it.

There are two checks. `quick_problem` reads the file's headers and costs microseconds. It runs in every
process that attaches a patch that needs the module. `load` really loads the module. A damaged file can
end the process that loads it. So the first process that asks compares the file with the checksum that its
installer has noted, and where there is none, or another one, lets a child process try the file. The verdict
travels to child processes in the environment, so the workers of a node do not repeat this.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import mantaray
from mantaray.helpers import python_command

NAME = "mantaray._native"
# A child process inherits the verdict of the process that started it.
VERDICT_VARIABLE = "_MANTARAY_NATIVE"
# The limit is generous, so only a module that hangs reaches it.
_TRIAL_TIMEOUT_S = 120.0
_AGAIN = "install ray-mantaray again"
# Which packages may have brought the module: Mantaray's own, and a Ray that was built with it.
_RECORDS = ("ray_mantaray-*.dist-info/RECORD", "ray-*.dist-info/RECORD")
# e_machine of the ELF header, by what the kernel calls the machine.
_MACHINES = {"x86_64": 62, "aarch64": 183}
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


class NativeError(RuntimeError):
    """The native module cannot be used. The message is one sentence that names the cause."""


def quick_problem() -> str | None:
    """Return why the native module cannot work, as far as its file and earlier trials show.

    This loads nothing. None means that no problem is visible; `load` may still find one.
    """
    if NAME in sys.modules:
        return None
    path = find_module()
    if path is None:
        return _missing()
    try:
        verdict = _verdict_on(path)
        return verdict[0] if verdict else _file_problem(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}); {_AGAIN}"


def load() -> None:
    """Load the native module, so that later imports find it.

    Raises:
        NativeError: it cannot be loaded.
    """
    if NAME in sys.modules:
        return
    problem = quick_problem()
    if problem is None:
        problem = _tried() or import_problem()
    if problem is not None:
        raise NativeError(problem)


def find_module() -> Path | None:
    """Return the file of the module that this Python would load."""
    stem = NAME.rpartition(".")[2]
    for directory in mantaray.__path__:
        for suffix in EXTENSION_SUFFIXES:
            path = Path(directory, stem + suffix)
            if path.exists():
                return path
    return None


def _missing() -> str:
    directory = Path(mantaray.__path__[0])
    wanted = NAME.rpartition(".")[2] + EXTENSION_SUFFIXES[0]
    others = sorted(path.name for path in directory.glob("_native.*.so"))
    if others:
        return (
            f"the native module was built for another Python ({others[0]} in {directory}, this Python "
            f"needs {wanted}); install the ray-mantaray wheel of this Python"
        )
    return f"the native module is missing ({wanted} in {directory}); {_AGAIN}"


def _identity(path: Path) -> list[object]:
    """Return a value that changes with the file, and with each new installation of it."""
    info = path.stat()
    return [str(path), info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns]


def _verdict_on(path: Path) -> tuple[str | None] | None:
    """Return the verdict of a parent process on the file; None if none has tried it."""
    try:
        identity, problem = json.loads(os.environ[VERDICT_VARIABLE])
    except (KeyError, ValueError):
        return None
    return (problem,) if identity == _identity(path) else None


def _file_problem(path: Path) -> str | None:
    """Return what is wrong with the file's headers. A truncated file would end the process (SIGBUS)."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        head = file.read(_ELF_HEADER.size)
        if len(head) < _ELF_HEADER.size or head[:6] != b"\x7fELF\x02\x01":
            return f"{path} is damaged (it is not a 64-bit ELF file); {_AGAIN}"
        _, _, machine, *_ = fields = _ELF_HEADER.unpack(head)
        here = os.uname().machine
        if machine != _MACHINES.get(here, machine):
            return f"{path} was built for another machine than {here}; {_AGAIN}"
        programs_at, sections_at = fields[5], fields[6]
        program_size, program_count, section_size, section_count = fields[9:13]
        file.seek(programs_at)
        table = file.read(_PROGRAM_HEADER.size * program_count)
    ends = [sections_at + section_size * section_count]
    if program_size == _PROGRAM_HEADER.size and len(table) == _PROGRAM_HEADER.size * program_count:
        ends += [
            offset + size for _, _, offset, _, _, size, *_ in _PROGRAM_HEADER.iter_unpack(table)
        ]
    else:
        ends.append(size_bytes + 1)
    if max(ends) > size_bytes:
        return f"{path} is damaged (it is cut off at {size_bytes} bytes); {_AGAIN}"
    return None


def _tried() -> str | None:
    """Let a child process load the module, unless a parent has done so; return what went wrong."""
    path = find_module()
    if path is None:
        return _missing()
    if _verdict_on(path) is None:
        problem = None if is_as_built(path) else _trial(path)
        os.environ[VERDICT_VARIABLE] = json.dumps([_identity(path), problem])
    verdict = _verdict_on(path)
    return verdict[0] if verdict else None


def is_as_built(path: Path) -> bool:
    """Return whether a file has the checksum that its installer has noted; False if none is known.

    That takes milliseconds, and a trial as long as an interpreter takes to start. For the format see
    "Recording installed projects" of the Python Packaging User Guide.

    Args:
        path: the native module, in a package that is installed.
    """
    site = path.parent.parent
    start = f"{path.parent.name}/{path.name},sha256="
    try:
        for record in (each for pattern in _RECORDS for each in site.glob(pattern)):
            for line in record.read_text(encoding="utf-8").splitlines():
                if line.startswith(start):
                    digest = hashlib.sha256(path.read_bytes()).digest()
                    noted = line.removeprefix(start).partition(",")[0]
                    return base64.urlsafe_b64encode(digest).decode().rstrip("=") == noted
    except (OSError, UnicodeError):
        pass
    return False


def _trial(path: Path) -> str | None:
    try:
        done = subprocess.run(
            python_command("mantaray.overlay.native_main"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"loading {path} takes longer than {_TRIAL_TIMEOUT_S:.0f} s; {_AGAIN}"
    except OSError:
        # No child process can be started here, so this process must try it itself.
        return None
    if done.returncode == 0:
        return done.stdout.strip() or None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"{path} is damaged ({name} in the process that loads it); {_AGAIN}"
    last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return f"{path} could not be tried ({last}); {_AGAIN}"


def import_problem() -> str | None:
    """Import the native module in this process; return what went wrong, in one sentence."""
    try:
        importlib.import_module(NAME)
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        return f"{find_module() or NAME} cannot be loaded ({cause}); {_AGAIN}"
    return None
