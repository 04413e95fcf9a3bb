"""A Python 3.11 that runs on old systems, which have none that is new enough for the wheels.

Debian 11 has Python 3.9. The sources are Debian's, through apt, which checks them. They are compiled
with the compiler of the wheels, for the same glibc, with the modules that the tests need inside. That
takes some minutes and is kept in `build/`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rays import REPOSITORY

_KEPT = REPOSITORY / "build/old-python"
_GLIBC = "2.17"
_MODULES = """\
*static*
_bisect _bisectmodule.c
_contextvars _contextvarsmodule.c
_csv _csv.c
_datetime _datetimemodule.c
_heapq _heapqmodule.c
_json _json.c
_md5 md5module.c
_opcode _opcode.c
_pickle _pickle.c
_posixsubprocess _posixsubprocess.c
_queue _queuemodule.c
_random _randommodule.c
_sha1 sha1module.c
_sha256 sha256module.c
_sha512 sha512module.c
_socket socketmodule.c
_struct _struct.c
array arraymodule.c
binascii binascii.c
fcntl fcntlmodule.c
grp grpmodule.c
math mathmodule.c
mmap mmapmodule.c
resource resource.c
select selectmodule.c
termios termios.c
unicodedata unicodedata.c
"""


def put_old_python(root: Path) -> str:
    """Lay the Python into a root directory; return its path, seen from inside.

    It is compiled if it is not kept from an earlier time. The test is skipped where the sources or
    the compiler cannot be had.
    """
    if not (_KEPT / "python").is_file():
        _build()
    target = root / "usr/local"
    (target / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(_KEPT / "python", target / "bin/python3.11")
    shutil.copytree(_KEPT / "lib", target / "lib/python3.11", dirs_exist_ok=True)
    return "/usr/local/bin/python3.11"


def _build() -> None:
    from tools.distribution import debian

    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("the compiler of the wheels is not installed; run tools/setup dist")
    if not debian.available():
        pytest.skip("this machine has no apt to get the sources of Python with")
    shutil.rmtree(_KEPT, ignore_errors=True)
    _KEPT.mkdir(parents=True)
    try:
        archive = debian.Suite("bookworm", "amd64", _KEPT).source("python3.11")
    except (debian.DebianError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the sources of Python cannot be had: {error}")
    tree = _KEPT / "tree"
    tree.mkdir()
    _run(["tar", "-xf", str(archive), "--strip-components=1", "-C", str(tree)], tree)
    (tree / "Modules/Setup.local").write_text(_MODULES)
    zig = f"{sys.executable} -m ziglang"
    _run(
        [
            *("./configure", "-q", "--disable-test-modules", "--without-ensurepip"),
            f"CC={zig} cc -target x86_64-linux-gnu.{_GLIBC}",
            f"AR={zig} ar",
            "CFLAGS=-O1 -g0 -fno-sanitize=all -w",
            # Libraries of this system are not for that one.
            "PKG_CONFIG=/bin/false",
        ],
        tree,
    )
    _run(["make", "-s", f"-j{os.cpu_count() or 1}", "python"], tree)
    shutil.copytree(tree / "Lib", _KEPT / "lib", ignore=shutil.ignore_patterns("test", "idlelib"))
    (_KEPT / "lib/lib-dynload").mkdir()
    for data in tree.glob("build/lib.*/_sysconfigdata*.py"):
        shutil.copy(data, _KEPT / "lib")
    shutil.copy(tree / "python", _KEPT / "python")
    shutil.rmtree(tree)


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=3000
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
