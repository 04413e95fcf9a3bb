"""Each wheel in an environment of its own Python, on an old system, and on another machine.

A wheel of a Python or machine that cannot be had is skipped, with that reason.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dist.old_python import put_old_python
from tests.dist.systems import PROBE, Root, System, pytest_arguments, run
from tests.support.rays import REPOSITORY

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
SMOKE = Path(__file__).with_name("smoke.py")
RAY = "2.60.0"
# Compiling all of Ray takes longer than installing it.
_QUIET = ("-q", "--disable-pip-version-check", "--no-compile")


def wheel_of(dist: Path, python: str, machine: str) -> Path:
    """Return a wheel; skip where `make dist` made none."""
    tag = f"cp{python.replace('.', '')}"
    found = list(dist.glob(f"ray_mantaray-*-{tag}-{tag}-*_{machine}.whl"))
    if not found:
        pytest.skip(f"`make dist` made no wheel for Python {python} on {machine}")
    (wheel,) = found
    return wheel


def module_of(wheel: Path, directory: Path) -> Path:
    """Unpack the extension module of a wheel and return it."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".so")]
        return Path(file.extract(name, directory))


class Environment:
    """A virtual environment of a Python with the wheel in it."""

    def __init__(self, directory: Path, interpreter: Path, wheel: Path) -> None:
        run([str(interpreter), "-m", "venv", str(directory)])
        self.python = str(directory / "bin" / "python")
        self.bin = directory / "bin"
        self.pip(str(wheel))

    def pip(self, *arguments: str) -> None:
        """Install something."""
        run([self.python, "-m", "pip", "install", *_QUIET, *arguments])


@pytest.fixture(scope="module", params=PYTHONS)
def environment(
    request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    """An environment of one Python."""
    from tools.distribution import targets

    wheel = wheel_of(dist, request.param, platform.machine())
    interpreter = targets.interpreter(request.param)
    if interpreter is None:
        pytest.skip(f"there is no Python {request.param} on this machine")
    directory = tmp_path_factory.mktemp("venv")
    yield Environment(directory, interpreter, wheel)
    shutil.rmtree(directory)


def test_the_installed_module_works(environment: Environment) -> None:
    assert json.loads(run([environment.python, str(PROBE)]))["machine"] == platform.machine()


def test_the_command_runs_without_anything_else(environment: Environment) -> None:
    assert run([str(environment.bin / "mantaray"), "--version"]).startswith("mantaray ")
    assert "MANTARAY_PATCHES" in run([str(environment.bin / "mantaray"), "settings"])


@pytest.mark.slow
def test_native_unit_tests_pass(environment: Environment) -> None:
    environment.pip("pytest")
    arguments = pytest_arguments(str(REPOSITORY))
    assert " passed" in run([environment.python, "-m", "pytest", *arguments])


@pytest.mark.slow
def test_a_cluster_spills_and_restores(environment: Environment) -> None:
    environment.pip(f"ray=={RAY}")
    said = run([environment.python, str(SMOKE)], RAY_USAGE_STATS_ENABLED="0")
    assert json.loads(said.splitlines()[-1])["spill"] == "active"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_wheel_is_large_or_needs_another_library(
    dist: Path, machine: str, tmp_path: Path
) -> None:
    from tools.distribution.auditing import audit

    for python in PYTHONS:
        found = list(dist.glob(f"ray_mantaray-*-cp{python.replace('.', '')}-*_{machine}.whl"))
        for wheel in found:
            assert wheel.stat().st_size < 4_000_000
            module = module_of(wheel, tmp_path / wheel.name)
            assert audit(module, machine) == f"manylinux_2_17_{machine}"
    if not list(dist.glob(f"ray_mantaray-*_{machine}.whl")):
        pytest.skip(f"`make dist` made no wheel for {machine}")


def test_an_old_system_has_all_that_the_module_asks_its_libraries_for(
    dist: Path, root: Root, tmp_path: Path
) -> None:
    module = module_of(wheel_of(dist, "3.11", "x86_64"), tmp_path)
    system = root("bullseye", "amd64")
    shutil.copy(module, system / "tmp" / "module.so")
    loader = ["chroot", str(system), "/lib64/ld-linux-x86-64.so.2"]
    # The loader fails where a version of a symbol, as GLIBC_2.36, is missing.
    said = run([*loader, "--list", "/tmp/module.so"])
    assert "libc.so.6 =>" in said
    assert "not found" not in said


@pytest.mark.slow
def test_the_wheel_works_on_an_old_system(dist: Path, root: Root) -> None:
    """Debian 11, with glibc 2.31 and a Python 3.11 that was made for it."""
    directory = root("bullseye", "amd64")
    system = System(directory, "x86_64", [put_old_python(directory)])
    system.install(wheel_of(dist, "3.11", "x86_64"))
    said = json.loads(system.python("/tests/probe.py").splitlines()[-1])
    assert (said["libc"], said["machine"]) == ("glibc 2.31", "x86_64")
    assert " passed" in system.python("-m", "pytest", *pytest_arguments(""))


@pytest.mark.slow
def test_the_wheel_works_on_another_machine(dist: Path, root: Root) -> None:
    """Debian 12 for arm64, whose instructions qemu translates."""
    emulator = shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("there is no qemu-aarch64-static; Debian: qemu-user-static")
    wheel = wheel_of(dist, "3.11", "aarch64")
    directory = root("bookworm", "arm64")
    shutil.copy(emulator, directory / "usr/bin")
    system = System(
        directory, "aarch64", [f"/usr/bin/{Path(emulator).name}", "/usr/bin/python3.11"]
    )
    system.install(wheel)
    assert json.loads(system.python("/tests/probe.py").splitlines()[-1])["machine"] == "aarch64"
    assert " passed" in system.python("-m", "pytest", *pytest_arguments(""))


def test_checksums_and_materials_name_everything(dist: Path) -> None:
    lines = (dist / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    made = {path.name: path for path in dist.glob("ray_mantaray*")}
    assert sums.keys() == made.keys()
    assert {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in made.items()} == sums
    (bill,) = dist.glob("*.cdx.json")
    document: dict[str, Any] = json.loads(bill.read_text())
    named = {part["name"]: part["version"] for part in document["components"]}
    assert {
        "grpc",
        "protobuf-upb",
        "openssl",
        "abseil-cpp",
        "pybind11",
        "llvm-libcxx",
    } <= named.keys()
    assert all(named.values())


def test_sources_hold_what_a_build_needs(dist: Path) -> None:
    import tarfile

    (archive,) = dist.glob("ray_mantaray-*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {"setup.py", "WORKSPACE", "bazel/zig.bzl", "src/mantaray/python/module.cc"}
    assert wanted <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".whl"))]
