"""What is published: wheels for other targets made from one, the relay's wheel, the list of materials."""

from __future__ import annotations

import re
import subprocess
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from mantaray.wheel.archive import WheelReader
from mantaray.wheel.metadata import header
from packaging.requirements import Requirement
from synthetic_ray import RayWheel

import mantaray
from tests.support.rays import REPOSITORY
from tools.distribution import packing, sbom, sysroot, targets

PLATFORM = targets.PLATFORM.format(machine="aarch64")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A wheel as setuptools makes one, for the interpreter at hand."""
    ray = RayWheel(name="ray_mantaray", version="0.2.0")
    ray.files["mantaray/__init__.py"] = b"\n"
    ray.files["mantaray/_native.pyi"] = b"# types\n"
    ray.files["mantaray/_native.cpython-311-x86_64-linux-gnu.so"] = b"\x7fELF of this machine"
    return ray.write(tmp_path)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """An extension module for another target."""
    path = tmp_path / "module.so"
    path.write_bytes(b"\x7fELF of another machine")
    return path


def test_wheel_for_another_target_differs_in_module_and_tags_alone(
    template: Path, module: Path
) -> None:
    made = packing.retag(template, module, "cp310", "aarch64", PLATFORM)
    assert made.name == (
        "ray_mantaray-0.2.0-cp310-cp310-manylinux2014_aarch64.manylinux_2_17_aarch64.whl"
    )
    name = "mantaray/_native.cpython-310-aarch64-linux-gnu.so"
    with WheelReader(made) as wheel, WheelReader(template) as before:
        wheel.require_complete()
        changed = {"mantaray/_native.cpython-311-x86_64-linux-gnu.so", name}
        assert set(wheel.names()) ^ set(before.names()) == changed
        assert wheel.read_recorded(name) == module.read_bytes()
        assert wheel.mode(name) & 0o777 == 0o755
        tags = header(wheel.read(f"{wheel.dist_info}/WHEEL"), "Tag")
        assert tags == [
            "cp310-cp310-manylinux2014_aarch64",
            "cp310-cp310-manylinux_2_17_aarch64",
        ]
        same = set(wheel.names()) & set(before.names())
        same -= {f"{wheel.dist_info}/WHEEL", f"{wheel.dist_info}/RECORD"}
        assert all(wheel.read_recorded(each) == before.read_recorded(each) for each in same)


def test_the_same_parts_make_the_same_bytes(template: Path, module: Path) -> None:
    first = packing.retag(template, module, "cp310", "aarch64", PLATFORM).read_bytes()
    assert packing.retag(template, module, "cp310", "aarch64", PLATFORM).read_bytes() == first


def test_relay_wheel_installs_the_program_where_mantaray_looks(
    module: Path, tmp_path: Path
) -> None:
    module.write_text("#!/bin/sh\necho relay runs\n")
    made = packing.relay_wheel(
        module, "0.2.0", "manylinux_2_36_x86_64", [REPOSITORY / "LICENSE"], tmp_path
    )
    assert made.name == "ray_mantaray_relay-0.2.0-py3-none-manylinux_2_36_x86_64.whl"
    with zipfile.ZipFile(made) as wheel:
        text = wheel.read("ray_mantaray_relay-0.2.0.dist-info/METADATA").decode()
        wheel.extractall(tmp_path / "site")
    assert HeaderParser().parsestr(text).get_all("Requires-Dist") == ["ray-mantaray==0.2.0"]
    # Where mantaray.syncer.relay looks for it, seen from site-packages.
    program = tmp_path / "site" / "mantaray" / "bin" / "mantaray-relay"
    program.chmod(0o755)
    assert subprocess.check_output([program], text=True) == "relay runs\n"
    with WheelReader(made) as wheel_read:
        wheel_read.require_complete()
        assert wheel_read.mode("mantaray/bin/mantaray-relay") & 0o777 == 0o755


def test_the_extra_asks_for_the_relay_of_this_version() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("relay = ")]
    need = Requirement(line.split('"')[1])
    assert need.name == "ray-mantaray-relay"
    assert str(need.specifier) == f"=={mantaray.__version__}"


def test_materials_name_the_pinned_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom, "_ziglang", lambda: "0.17.1")
    monkeypatch.setattr(sbom, "_llvm", lambda: "22.1.8")
    pins = sysroot.pins()
    document = sbom.bill_of_materials(REPOSITORY, "0.2.0", pins)
    # A word such as "of grpcio 1.66.2" is no version that a scanner could look up.
    assert all(re.match(r"(\d+:)?\d", part["version"]) for part in document["components"])
    assert all(part["purl"].startswith("pkg:") for part in document["components"])
    parts = {part["name"]: part for part in document["components"]}
    assert {"grpc", "protobuf-upb", "openssl", "abseil-cpp", "pybind11"} <= parts.keys()
    (linked,) = [pin.version for pin in pins if pin.package == "libgrpc-dev"]
    assert parts["grpc"]["version"] == linked
    (tree,) = [each for each in document["dependencies"] if each["ref"].startswith("ray-mantaray@")]
    assert "ray-mantaray/pybind11" in tree["dependsOn"]


def test_no_user_installs_what_nothing_imports() -> None:
    package = REPOSITORY / "python/mantaray"
    code = "\n".join(path.read_text() for path in package.rglob("*.py"))
    lines = (package / "requirements.txt").read_text().splitlines()
    names = [Requirement(line).name for line in lines if line and not line.startswith("#")]
    assert names
    unused = {name for name in names if not re.search(rf"^\s*(from|import) {name}\b", code, re.M)}
    assert unused == set()


def test_changelog_knows_this_version() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    assert f"\n## {mantaray.__version__}" in text
