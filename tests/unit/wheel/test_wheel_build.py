"""What is in a custom wheel: upstream's files as they were, Mantaray, and correct metadata."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import Path

import pytest
from mantaray.wheel import build_wheel
from mantaray.wheel.bounds import bounds_for
from mantaray.wheel.contents import ContentFile, Contents, installed_contents
from mantaray.wheel.metadata import edit_entry_points, edit_metadata
from mantaray.wheel.platform_tag import audited_tag, needed_glibc, stricter
from synthetic_ray import ENTRY_POINTS, MACHINE, PYTHON, RayWheel, hashed

import mantaray

Build = Callable[[RayWheel], Path]
LABEL = f"mantaray.{mantaray.__version__}"


def unpacked(path: Path) -> dict[str, bytes]:
    """Return every file of a wheel."""
    with zipfile.ZipFile(path) as wheel:
        assert wheel.testzip() is None
        return {info.filename: wheel.read(info) for info in wheel.infolist()}


def test_every_upstream_file_is_there_byte_for_byte(build: Build) -> None:
    ray = RayWheel()
    inside = unpacked(build(ray))
    outside = {n: d for n, d in ray.files.items() if not n.startswith(ray.dist_info)}
    assert {name: inside[name] for name in outside} == outside
    license_name = f"ray-2.60.0+{LABEL}.dist-info/licenses/LICENSE.txt"
    assert inside[license_name] == ray.files[f"{ray.dist_info}/licenses/LICENSE.txt"]


def test_only_mantaray_is_added_and_no_leftovers_of_it(build: Build, contents: Contents) -> None:
    ray = RayWheel()
    inside = unpacked(build(ray))
    added = {n for n in inside if n not in ray.files and ".dist-info/" not in n}
    native = contents.natives[0].name
    assert added == {
        "mantaray.pth",
        "mantaray/__init__.py",
        "mantaray/part/__init__.py",
        "mantaray/requirements.txt",
        native,
    }
    assert inside[native] == contents.natives[0].source.read_bytes()


def test_permissions_are_kept(build: Build) -> None:
    ray = RayWheel(modes={"ray/scripts.py": 0o100755, "ray/core/data.bin": 0o100444})
    with zipfile.ZipFile(build(ray)) as wheel:
        modes = {info.filename: info.external_attr >> 16 for info in wheel.infolist()}
    assert modes["ray/core/raylet"] == 0o100755
    assert modes["ray/scripts.py"] == 0o100755
    assert modes["ray/core/data.bin"] == 0o100444
    assert modes["ray/__init__.py"] == 0o100664
    assert modes["mantaray/__init__.py"] == 0o100644


def test_names_carry_the_local_version(build: Build) -> None:
    path = build(RayWheel())
    assert path.name.startswith(f"ray-2.60.0+{LABEL}-{PYTHON}-{PYTHON}-")
    directories = {name.split("/")[0] for name in unpacked(path) if ".dist-info/" in name}
    assert directories == {f"ray-2.60.0+{LABEL}.dist-info"}


@pytest.mark.parametrize(("version", "bounded"), [("2.48.0", True), ("2.60.0", False)])
def test_metadata_has_version_requirements_and_bounds(
    build: Build, contents: Contents, version: str, bounded: bool
) -> None:
    inside = unpacked(build(RayWheel(version=version)))
    text = inside[f"ray-{version}+{LABEL}.dist-info/METADATA"].decode()
    metadata = HeaderParser().parsestr(text)
    assert metadata.get_all("Version") == [f"{version}+{LABEL}"]
    wanted = ["packaging", "protobuf>=3.20.3"]
    wanted += [need for need in contents.requirements if need != "packaging"]
    wanted += ["protobuf<7"] if bounded else []
    wanted += ['starlette; extra == "serve"']
    assert metadata.get_all("Requires-Dist") == wanted
    assert metadata.get_payload() == "A body.\n\nVersion: of the body, not of the wheel\n"


def test_metadata_without_body_or_extras() -> None:
    edited = edit_metadata(b"Name: ray\nVersion: 1\n", "1+x", ["click"])
    assert edited == b"Name: ray\nVersion: 1+x\nRequires-Dist: click\n\n"


def test_the_running_mantaray_names_its_requirements(contents: Contents) -> None:
    assert {"packaging", "click"} == {need.split(">")[0] for need in contents.requirements}


@pytest.mark.parametrize(
    ("version", "bounds"),
    [
        ("2.48.0", ["protobuf<7"]),
        ("2.56.0", ["protobuf<7"]),
        ("2.56.1", []),
        ("2.60.0", []),
    ],
)
def test_bounds_end_with_the_release_that_needs_none(version: str, bounds: list[str]) -> None:
    assert bounds_for(version) == bounds


def test_commands_of_upstream_are_kept_and_ours_is_added(build: Build) -> None:
    inside = unpacked(build(RayWheel()))
    text = inside[f"ray-2.60.0+{LABEL}.dist-info/entry_points.txt"].decode()
    assert set(ENTRY_POINTS.splitlines()) <= set(text.splitlines())
    assert "mantaray = mantaray.cli.main:main" in text.splitlines()


@pytest.mark.parametrize("before", [b"", b"[other.group]\na = b:c\n"])
def test_commands_where_upstream_has_none(before: bytes) -> None:
    after = edit_entry_points(before)
    assert after.startswith(before.rstrip())
    assert after.endswith(b"[console_scripts]\nmantaray = mantaray.cli.main:main\n")


def test_record_by_an_independent_reader(build: Build) -> None:
    inside = unpacked(build(RayWheel()))
    own = f"ray-2.60.0+{LABEL}.dist-info/RECORD"
    rows = list(csv.reader(io.StringIO(inside[own].decode())))
    said = {name: (digest, size) for name, digest, size in rows}
    assert len(rows) == len(said) == len(inside)
    assert said.pop(own) == ("", "")
    expected = {n: (hashed(d), str(len(d))) for n, d in inside.items() if n != own}
    assert said == expected


def test_wheel_file_has_the_tags_of_the_name(build: Build) -> None:
    path = build(RayWheel())
    inside = unpacked(path)
    text = inside[f"ray-2.60.0+{LABEL}.dist-info/WHEEL"].decode()
    name_tag = "-".join(path.name.removesuffix(".whl").split("-")[2:])
    assert HeaderParser().parsestr(text).get_all("Tag") == [name_tag]
    assert "Root-Is-Purelib: false" in text.splitlines()


def test_signatures_of_the_old_record_are_left_out(build: Build) -> None:
    ray = RayWheel()
    ray.files[f"{ray.dist_info}/RECORD.jws"] = b"signed"
    assert not [name for name in unpacked(build(ray)) if name.endswith("RECORD.jws")]


def test_metadata_directory_comes_last_and_record_last_of_all(build: Build) -> None:
    with zipfile.ZipFile(build(RayWheel())) as wheel:
        names = wheel.namelist()
    first = next(at for at, name in enumerate(names) if ".dist-info/" in name)
    assert all(".dist-info/" in name for name in names[first:])
    assert names[:first] == sorted(names[:first])
    assert names[-1].endswith("/RECORD")


def test_same_input_gives_the_same_bytes(build: Build, contents: Contents, tmp_path: Path) -> None:
    first = build(RayWheel()).read_bytes()
    for file in contents.files:
        os.utime(file.source, (1, 1))
    # The same files, packed at another time and in another order, from under another umask.
    other = RayWheel(date=(2031, 1, 2, 3, 4, 6), reverse=True)
    ray_record = RayWheel()
    other.record = (
        zipfile.ZipFile(ray_record.write(tmp_path / "r"))
        .read(f"{ray_record.dist_info}/RECORD")
        .decode()
    )
    before = os.umask(0o077)
    try:
        second = build_wheel(
            tmp_path / "second",
            source=other.write(tmp_path / "other"),
            contents=contents,
            allow_refused=True,
        )
    finally:
        os.umask(before)
    assert second.read_bytes() == first


@pytest.mark.parametrize(
    ("epoch", "date"),
    [
        (None, (1980, 1, 1, 0, 0, 0)),
        ("0", (1980, 1, 1, 0, 0, 0)),
        ("1700000000", (2023, 11, 14, 22, 13, 20)),
    ],
)
def test_times_are_fixed(
    build: Build, monkeypatch: pytest.MonkeyPatch, epoch: str | None, date: tuple[int, ...]
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    if epoch is not None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with zipfile.ZipFile(build(RayWheel())) as wheel:
        assert {info.date_time for info in wheel.infolist()} == {date}


def test_wheel_is_readable_as_the_umask_says(build: Build) -> None:
    before = os.umask(0o022)
    try:
        path = build(RayWheel())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_version_may_be_given_beside_the_file(contents: Contents, tmp_path: Path) -> None:
    source = RayWheel().write(tmp_path / "in")
    path = build_wheel(
        tmp_path / "out", ray_version="2.60", source=source, contents=contents, allow_refused=True
    )
    assert path.name.startswith("ray-2.60.0+")


@pytest.mark.parametrize(
    ("upstream", "ours", "result"),
    [
        ("manylinux2014_x86_64", "manylinux_2_5_x86_64", "manylinux2014_x86_64"),
        ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
        ("manylinux2014_x86_64", "manylinux_2_35_x86_64", "manylinux_2_35_x86_64"),
        ("manylinux2014_x86_64", "linux_x86_64", "linux_x86_64"),
        ("manylinux_2_34_x86_64", "manylinux_2_9_x86_64", "manylinux_2_34_x86_64"),
        ("linux_x86_64", "manylinux_2_35_x86_64", "linux_x86_64"),
        (
            "manylinux2014_x86_64.manylinux_2_17_x86_64",
            "manylinux_2_17_x86_64",
            "manylinux2014_x86_64.manylinux_2_17_x86_64",
        ),
        # Any tag of several will do, so the loosest is what upstream promises.
        (
            "manylinux_2_17_x86_64.manylinux_2_28_x86_64",
            "manylinux_2_24_x86_64",
            "manylinux_2_24_x86_64",
        ),
    ],
)
def test_the_stricter_platform_tag_wins(upstream: str, ours: str, result: str) -> None:
    assert stricter(upstream, ours) == result


def newest_glibc_symbol(path: Path) -> tuple[int, ...]:
    """Return the newest glibc that a file's symbols name, read from the file itself."""
    command = ["objdump", "-T", str(path)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"GLIBC_(\d+)\.(\d+)", symbols)
    return max((tuple(map(int, version)) for version in found), default=(0, 0))


def test_platform_tag_is_what_auditwheel_says_of_the_native_part(
    build: Build, contents: Contents
) -> None:
    path = build(RayWheel())
    tag = audited_tag(contents.natives)
    assert tag.endswith(MACHINE)
    assert needed_glibc(tag) >= newest_glibc_symbol(contents.natives[0].source)
    assert path.name.removesuffix(".whl").split("-")[-1] == stricter(
        f"manylinux2014_{MACHINE}", tag
    )


def test_native_part_that_needs_a_newer_glibc_changes_the_tag(tmp_path: Path) -> None:
    source = tmp_path / "part.c"
    # fcntl64 of glibc 2.28 is the oldest symbol newer than manylinux2014 that every compiler links.
    source.write_text("int fcntl64(int, int, ...); int part(void) { return fcntl64(0, 1); }")
    library = tmp_path / "part.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert newest_glibc_symbol(library) >= (2, 28)
    tag = audited_tag([ContentFile("mantaray/part.so", library, True, True)])
    assert needed_glibc(tag) >= (2, 28)
    assert stricter(f"manylinux2014_{MACHINE}", tag) == tag


def test_importable_without_auditwheel_and_pip() -> None:
    code = (
        "import sys; sys.modules['auditwheel'] = sys.modules['pip'] = None\n"
        "import mantaray.wheel, mantaray.cli.wheel\n"
        "assert not [m for m in sys.modules if m == 'ray' or m.startswith('ray.')]\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "imported\n"


def test_the_relay_comes_along_unless_it_is_left_out(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "site"
    shutil.copytree(site, other)
    program = other / "mantaray" / "bin" / "mantaray-relay"
    program.parent.mkdir()
    program.write_bytes(b"\x7fELF of the relay")
    program.chmod(0o755)
    name = "mantaray/bin/mantaray-relay"
    assert name in {file.name for file in installed_contents(other).natives}
    assert name not in {file.name for file in installed_contents(other, relay=False).files}
