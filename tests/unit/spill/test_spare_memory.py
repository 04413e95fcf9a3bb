"""When spilled data may stay in the page cache: while machine and control groups have memory to spare."""

from __future__ import annotations

from pathlib import Path

import pytest
from mantaray.spill.spare_memory import Kernel, has_spare_memory


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A machine with half of its memory available, and this process in the group /pods/one."""
    kernel = Kernel(proc=tmp_path / "proc", groups=tmp_path / "cgroup")
    write(kernel.proc / "meminfo", "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 500 kB\n")
    write(kernel.proc / "self" / "cgroup", "0::/pods/one\n")
    return kernel


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(kernel: Kernel, path: str, used: int, limit: str, name: str = "memory.max") -> None:
    write(kernel.groups / path / "memory.current", f"{used}\n")
    write(kernel.groups / path / name, limit + "\n")


def test_a_machine_with_memory_available_has_some_to_spare(kernel: Kernel) -> None:
    assert has_spare_memory(kernel)


def test_a_machine_that_is_nearly_full_has_none(kernel: Kernel) -> None:
    write(kernel.proc / "meminfo", "MemTotal: 1000 kB\nMemAvailable: 249 kB\n")
    assert not has_spare_memory(kernel)


@pytest.mark.parametrize(
    "text", ["", "MemTotal: 1000 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n"]
)
def test_a_machine_that_does_not_say_has_none(kernel: Kernel, text: str) -> None:
    write(kernel.proc / "meminfo", text)
    assert not has_spare_memory(kernel)


def test_without_the_kernels_files_there_is_none(tmp_path: Path) -> None:
    assert not has_spare_memory(Kernel(tmp_path, tmp_path))


@pytest.mark.parametrize("name", ["memory.max", "memory.high"])
@pytest.mark.parametrize("path", ["pods/one", "pods", ""])
def test_a_group_on_the_way_up_that_is_filled_leaves_none(
    kernel: Kernel, path: str, name: str
) -> None:
    group(kernel, path, used=760, limit="1000", name=name)
    assert not has_spare_memory(kernel)


def test_a_group_that_is_three_quarters_full_leaves_some(kernel: Kernel) -> None:
    group(kernel, "pods/one", used=750, limit="1000")
    assert has_spare_memory(kernel)


def test_a_group_without_a_limit_does_not_count(kernel: Kernel) -> None:
    group(kernel, "pods/one", used=10**12, limit="max")
    assert has_spare_memory(kernel)


def test_a_group_of_the_first_version_counts(kernel: Kernel) -> None:
    write(kernel.proc / "self" / "cgroup", "5:cpu:/x\n4:memory,hugetlb:/pods/one\n")
    home = kernel.groups / "memory" / "pods" / "one"
    write(home / "memory.usage_in_bytes", "760\n")
    write(home / "memory.limit_in_bytes", "1000\n")
    assert not has_spare_memory(kernel)


def test_a_container_that_sees_the_hosts_path_counts_its_own_root(kernel: Kernel) -> None:
    write(kernel.proc / "self" / "cgroup", "0::/kubepods/burstable/pod1\n")
    group(kernel, "", used=760, limit="1000")
    assert not has_spare_memory(kernel)


@pytest.mark.parametrize("where", ["machine", "group"])
def test_processes_that_wait_for_memory_leave_none(kernel: Kernel, where: str) -> None:
    file = kernel.proc / "pressure" / "memory"
    if where == "group":
        file = kernel.groups / "pods" / "one" / "memory.pressure"
    full = "full avg10=9.00 avg60=9.00 avg300=9.00 total=1\n"
    write(file, "some avg10=0.50 avg60=9.00 avg300=9.00 total=1\n" + full)
    assert has_spare_memory(kernel)
    write(file, "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\n" + full)
    assert not has_spare_memory(kernel)


def test_this_machine_answers() -> None:
    assert has_spare_memory() in (True, False)
