"""A memory control group with a limit, for programs that must live within it.

It needs root and control groups that may be written, of version 1 or 2; where that is not so the test is
skipped and says why.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

_ROOT = Path("/sys/fs/cgroup")
_REMOVE_TIMEOUT_S = 20.0


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """Make a group with this limit and yield its directory. A process enters it through `cgroup.procs`.

    Args:
        limit_bytes: of memory, page cache included.
    """
    is_old = (_ROOT / "memory").is_dir()
    group = (_ROOT / "memory" if is_old else _ROOT) / f"mantaray-test-{uuid4().hex[:8]}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if is_old else "memory.max")
        limit.write_text(str(limit_bytes))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        yield group
    finally:
        _remove(group)


def oom_kills(group: Path) -> int:
    """Return how many processes of a group the kernel has ended for lack of memory."""
    names = ("memory.oom_control", "memory.events")
    file = next(group / name for name in names if (group / name).exists())
    return int(dict(line.split() for line in file.read_text().splitlines())["oom_kill"])


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.2)  # Its last processes are ending.
    pytest.fail(f"{group} still has processes: {(group / 'cgroup.procs').read_text().split()}")
