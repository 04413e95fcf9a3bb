"""Ways in which Mantaray's native module can be unusable, applied to a copy of the package.

Each entry of DAMAGES is what an operator has met or will meet: a lost file, a wheel of another Python,
machine or libc, an interrupted copy, a bad disk.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path


def copy_mantaray(package: Path, parent: Path) -> Path:
    """Copy an installed Mantaray into a directory for PYTHONPATH; return the copied package."""
    copy = parent / "mantaray"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def native_file(package: Path) -> Path:
    """Return the file of the native module in a package."""
    (file,) = package.glob("_native.*.so")
    return file


def replace_content(file: Path, content: bytes) -> None:
    """Give a path another file, as an installer does; a process that runs keeps the old one."""
    draft = file.with_suffix(".draft")
    draft.write_bytes(content)
    os.replace(draft, file)


def _missing(file: Path) -> None:
    file.unlink()


def _another_python(file: Path) -> None:
    file.rename(file.with_name("_native.cpython-39-x86_64-linux-gnu.so"))


def _renamed_from_another_python(file: Path) -> None:
    """pybind11 asks which Python runs by comparing the version that it was compiled for."""
    content = file.read_bytes()
    versions = set(re.findall(rb"\x003\.(?:9|1\d)\x00", content))
    for version in versions:
        content = content.replace(version, b"\x004.9\x00".ljust(len(version), b"\x00"))
    assert versions, "the module holds the version that it was compiled for"
    replace_content(file, content)


def _another_machine(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[18] = 183 if content[18] != 183 else 62
    replace_content(file, bytes(content))


def _another_libc(file: Path) -> None:
    content = file.read_bytes()
    (version, *_) = re.findall(rb"\x00GLIBC_2\.\d\d\x00", content)
    replace_content(file, content.replace(version, b"\x00GLIBC_9.99\x00"))


def _truncated(file: Path) -> None:
    content = file.read_bytes()
    replace_content(file, content[: len(content) // 2])


def _empty(file: Path) -> None:
    replace_content(file, b"")


def _not_a_library(file: Path) -> None:
    replace_content(file, b"<html>502 Bad Gateway</html>\n" * 100)


def _zeroed_in_the_middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    start, end = len(content) // 8, len(content) * 7 // 8
    content[start:end] = bytes(end - start)
    replace_content(file, bytes(content))


# By name: what does it, and words of the sentence that names the cause.
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (_missing, "the native module is missing"),
    "another_python": (_another_python, "was built for another Python"),
    "renamed_from_another_python": (
        _renamed_from_another_python,
        "cannot be loaded (Python version",
    ),
    "another_machine": (_another_machine, "was built for another machine"),
    "another_libc": (_another_libc, "version `GLIBC_9.99' not found"),
    "truncated": (_truncated, "is damaged (it is cut off at"),
    "empty": (_empty, "is damaged (it is not a 64-bit ELF file)"),
    "not_a_library": (_not_a_library, "is damaged (it is not a 64-bit ELF file)"),
    "zeroed_in_the_middle": (_zeroed_in_the_middle, "is damaged (SIG"),
}
# What only loading shows; the rest shows in the file's headers.
FOUND_BY_LOADING = ("renamed_from_another_python", "another_libc", "zeroed_in_the_middle")


def damage(package: Path, kind: str) -> str:
    """Damage the native module of a package; return words of the sentence that must follow."""
    apply, words = DAMAGES[kind]
    apply(native_file(package))
    return words
