"""How much memory a process may still take, before it starts a child that needs some."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_CGROUP_ROOT = "/sys/fs/cgroup"
_FILES_OF_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_FILES_OF_VERSION_2 = ("memory.max", "memory.current")


def available_bytes(proc: str = "/proc", cgroup_root: str = _CGROUP_ROOT) -> int:
    """Return how much memory the machine and the control groups still allow this process.

    Args:
        proc: where the kernel shows processes.
        cgroup_root: where control groups (version 1 or 2) are mounted.

    Raises:
        OSError: the machine does not report its memory.
    """
    for line in Path(proc, "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            machine = int(line.split()[1]) * 1024
            return min([machine, *_group_headrooms(Path(proc), Path(cgroup_root))])
    raise OSError(f"{proc}/meminfo has no line MemAvailable")


def group_directories(proc: Path, root: Path) -> Iterator[Path]:
    """Yield the directory of each memory control group of this process, the innermost first.

    Args:
        proc: where the kernel shows processes.
        root: where control groups (version 1 or 2) are mounted.

    Raises:
        OSError: the kernel does not show the groups.
    """
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        directory = top / name.lstrip("/")
        # In a container the path may name a group that is not mounted. The root is its group then.
        while directory != top:
            yield directory
            directory = directory.parent
        yield top


def _group_headrooms(proc: Path, root: Path) -> Iterator[int]:
    """Yield the remaining bytes of each control group with a limit; an unreadable group is skipped."""
    try:
        directories = list(group_directories(proc, root))
    except OSError:
        return
    for directory in directories:
        for files in (_FILES_OF_VERSION_2, _FILES_OF_VERSION_1):
            headroom = _headroom(directory, *files)
            if headroom is not None:
                yield headroom


def _headroom(group: Path, limit_file: str, usage_file: str) -> int | None:
    try:
        limit = (group / limit_file).read_text().strip()
        if limit == "max":
            return None
        usage = int((group / usage_file).read_text())
        # The kernel reclaims pages of files before it ends a process.
        cached = _inactive_file_bytes((group / "memory.stat").read_text())
        return max(0, int(limit) - usage + cached)
    except (OSError, ValueError):
        return None


def _inactive_file_bytes(stat: str) -> int:
    figures = dict(line.split() for line in stat.splitlines() if line.count(" ") == 1)
    return int(figures.get("total_inactive_file", figures.get("inactive_file", 0)))
