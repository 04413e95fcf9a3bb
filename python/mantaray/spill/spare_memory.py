"""Whether there is memory to spare for the page cache of spilled data.

A spilled object that is still in the page cache is restored at the speed of memory. But the page cache of a
memory control group counts against its limit, so a pod that spills much would run at its limit, where every
allocation has to reclaim memory first. `MANTARAY_SPILL_CACHE=auto` keeps spilled data in the page cache
only while there is memory to spare.

There is memory to spare if all of this holds:

- at least a quarter of the machine's memory is available, in the kernel's estimate;
- every control group that limits this process is filled to at most three quarters. Page cache counts as
  filled here, so spilled data never takes the last quarter;
- no process has waited for memory for a noticeable time in the last ten seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mantaray.memory import group_directories

_SPARE_SHARE = 0.25
# Share of time, in percent, in which some process waited for memory.
_MOST_PRESSURE_PERCENT = 1.0


@dataclass(frozen=True)
class Kernel:
    """The directories in which the kernel shows its figures. Tests use other directories."""

    proc: Path = Path("/proc")
    groups: Path = Path("/sys/fs/cgroup")


def has_spare_memory(kernel: Kernel | None = None) -> bool:
    """Return whether spilled data may stay in the page cache.

    A figure that the kernel does not show does not count. Only the available memory is required: without
    it the answer is False.

    Args:
        kernel: where to look; this machine by default.
    """
    kernel = kernel or Kernel()
    try:
        return (
            _machine_has_spare(kernel.proc / "meminfo")
            and all(used <= limit * (1 - _SPARE_SHARE) for used, limit in _groups(kernel))
            and all(share <= _MOST_PRESSURE_PERCENT for share in _pressures(kernel))
        )
    except (OSError, ValueError, LookupError):
        return False


def _machine_has_spare(meminfo: Path) -> bool:
    figures = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    total, available = (int(figures[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return available >= total * _SPARE_SHARE


def _groups(kernel: Kernel) -> Iterator[tuple[int, int]]:
    """Yield the used and the allowed bytes of each control group that limits the memory of this process."""
    for directory in group_directories(kernel.proc, kernel.groups):
        for used_name, limit_name in (
            ("memory.current", "memory.max"),
            ("memory.current", "memory.high"),
            ("memory.usage_in_bytes", "memory.limit_in_bytes"),
        ):
            used, limit = _number(directory / used_name), _number(directory / limit_name)
            if used is not None and limit is not None:
                yield used, limit


def _pressures(kernel: Kernel) -> Iterator[float]:
    files = [kernel.proc / "pressure" / "memory"]
    files += [
        directory / "memory.pressure" for directory in group_directories(kernel.proc, kernel.groups)
    ]
    for file in files:
        try:
            text = file.read_text()
        except OSError:
            continue  # The kernel has no such figures, or they are switched off.
        for line in text.splitlines():
            if line.startswith("some "):
                yield float(line.split("avg10=")[1].split()[0])


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
