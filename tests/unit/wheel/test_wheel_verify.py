"""`verify` tells an intact custom wheel from one in which anything is not as it was made."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mantaray.wheel import WheelError, build_wheel, verify_wheel
from mantaray.wheel.contents import ContentFile, Contents, installed_contents
from synthetic_ray import RayWheel, hashed, write_release

import mantaray

Build = Callable[[RayWheel], Path]
DIST_INFO = f"ray-2.60.0+mantaray.{mantaray.__version__}.dist-info"
KEPT = f"{DIST_INFO}/mantaray/UPSTREAM_RECORD"


def tampered(
    path: Path,
    changes: dict[str, bytes | None],
    *,
    modes: dict[str, int] | None = None,
    fix_record: bool = False,
    file_name: str = "",
) -> Path:
    """Write a copy of a wheel in which some files are changed, added, or gone (None)."""
    with zipfile.ZipFile(path) as wheel:
        attributes = {info.filename: info.external_attr for info in wheel.infolist()}
        files = {name: wheel.read(name) for name in attributes}
    for name, data in changes.items():
        if data is None:
            del files[name]
        else:
            files[name] = data
    if fix_record:
        own = f"{DIST_INFO}/RECORD"
        lines = [f"{n},{hashed(d)},{len(d)}\n" for n, d in files.items() if n != own]
        files[own] = "".join([*lines, f"{own},,\n"]).encode()
    for name, mode in (modes or {}).items():
        attributes[name] = mode << 16
    copy = path.parent / "copy" / (file_name or path.name)
    copy.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(copy, "w") as out:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes.get(name, 0o100644 << 16)
            out.writestr(info, data)
    return copy


@pytest.fixture
def custom(build: Build) -> Path:
    """A custom wheel as it is made."""
    return build(RayWheel())


@pytest.fixture
def official(custom: Path, tmp_path: Path) -> Path:
    """The official wheel it was made from."""
    return RayWheel().write(tmp_path / "official")


def test_intact(custom: Path) -> None:
    found = verify_wheel(custom)
    assert found.ok
    assert (found.ray_version, found.mantaray_version) == ("2.60.0", mantaray.__version__)
    # Four files of Ray and its license are left as they were; the rest is listed, not hidden.
    assert found.unchanged == 5
    names = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt")
    assert found.rewritten == tuple(f"{DIST_INFO}/{name}" for name in names)
    assert KEPT in found.added
    assert "mantaray.pth" in found.added


def test_intact_against_the_official_wheel(custom: Path, official: Path, release: Path) -> None:
    found = verify_wheel(custom, official, release)
    assert found.ok, found
    assert found.reference == f"{official.name} and {release.name}"
    assert (found.unchanged, found.rewritten, found.added) == (
        verify_wheel(custom).unchanged,
        verify_wheel(custom).rewritten,
        verify_wheel(custom).added,
    )


def test_changed_upstream_file(custom: Path) -> None:
    found = verify_wheel(tampered(custom, {"ray/scripts.py": b"evil"}))
    assert found.changed == ("ray/scripts.py",)
    assert found.problems == ("ray/scripts.py is not what the wheel's own RECORD says",)
    assert not found.ok


def test_changed_upstream_file_with_record_made_to_match(custom: Path) -> None:
    found = verify_wheel(tampered(custom, {"ray/scripts.py": b"evil"}, fix_record=True))
    assert found.changed == ("ray/scripts.py",)
    assert found.problems == ()
    assert not found.ok


def test_changed_upstream_file_with_kept_record_made_to_match(
    custom: Path, official: Path, release: Path
) -> None:
    with zipfile.ZipFile(custom) as wheel:
        kept = wheel.read(KEPT).decode()
    old = RayWheel().files["ray/scripts.py"]
    forged = kept.replace(f"{hashed(old)},{len(old)}", f"{hashed(b'evil')},4").encode()
    changes: dict[str, bytes | None] = {"ray/scripts.py": b"evil", KEPT: forged}
    copy = tampered(custom, changes, fix_record=True)
    assert verify_wheel(copy).ok, "the wheel alone cannot tell; the official one can"
    found = verify_wheel(copy, official, release)
    assert found.changed == ("ray/scripts.py",)
    assert any("UPSTREAM_RECORD is not the RECORD of" in problem for problem in found.problems)


def test_changed_license(custom: Path) -> None:
    name = f"{DIST_INFO}/licenses/LICENSE.txt"
    found = verify_wheel(tampered(custom, {name: b"none"}, fix_record=True))
    assert found.changed == (name,)


def test_missing_upstream_file(custom: Path) -> None:
    found = verify_wheel(tampered(custom, {"ray/core/raylet": None}))
    assert found.missing == ("ray/core/raylet",)
    assert found.problems == ("ray/core/raylet is in RECORD and not in the wheel",)


@pytest.mark.parametrize("name", ["ray/extra.py", "sitecustomize.py", f"{DIST_INFO}/INSTALLER"])
def test_file_that_nobody_put_there(custom: Path, name: str) -> None:
    found = verify_wheel(tampered(custom, {name: b"x"}, fix_record=True))
    assert found.unexpected == (name,)
    assert not found.ok


def test_changed_file_of_mantaray(custom: Path) -> None:
    found = verify_wheel(tampered(custom, {"mantaray/__init__.py": b"x"}))
    assert found.problems == ("mantaray/__init__.py is not what the wheel's own RECORD says",)


def test_lost_permission_shows_against_the_official_wheel(
    custom: Path, official: Path, release: Path
) -> None:
    copy = tampered(custom, {}, modes={"ray/core/raylet": 0o100644})
    found = verify_wheel(copy, official, release)
    assert found.problems == ("ray/core/raylet has other permissions than it has to have",)


def inside(path: Path, name: str) -> bytes:
    """Return a file of a wheel."""
    with zipfile.ZipFile(path) as wheel:
        return wheel.read(name)


# What is done to a wheel, and what has to be said of it. Each way makes pip install somebody else's code.
# RECORD always matches, so that pip installs the wheel.
TAMPERING: dict[str, tuple[Callable[[Path], dict[str, bytes | None]], str]] = {
    "replaced_pth": (
        lambda custom: {"mantaray.pth": b"import os; os.system('true')\n"},
        "mantaray.pth is not that of ray-mantaray",
    ),
    "replaced_module": (
        lambda custom: {"mantaray/part/__init__.py": b"import os\n"},
        "mantaray/part/__init__.py is not that of ray-mantaray",
    ),
    "replaced_native_module": (
        lambda custom: {native_name(custom): b"\x7fELF of somebody else"},
        "_native",
    ),
    "added_requirement": (
        lambda custom: {
            f"{DIST_INFO}/METADATA": inside(custom, f"{DIST_INFO}/METADATA").replace(
                b"Provides-Extra", b"Requires-Dist: somebody-else\nProvides-Extra", 1
            )
        },
        "METADATA has the line 'Requires-Dist: somebody-else'",
    ),
    "loosened_requirement": (
        lambda custom: {
            f"{DIST_INFO}/METADATA": inside(custom, f"{DIST_INFO}/METADATA").replace(
                b"protobuf>=3.20.3", b"protobuf"
            )
        },
        "METADATA lacks the line 'Requires-Dist: protobuf>=3.20.3'",
    ),
    "changed_entry_point": (
        lambda custom: {
            f"{DIST_INFO}/entry_points.txt": inside(
                custom, f"{DIST_INFO}/entry_points.txt"
            ).replace(b"ray = ray.scripts:main", b"ray = mantaray.part:main")
        },
        "entry_points.txt has the line 'ray = mantaray.part:main'",
    ),
    "added_entry_point": (
        lambda custom: {
            f"{DIST_INFO}/entry_points.txt": inside(custom, f"{DIST_INFO}/entry_points.txt")
            + b"ls = mantaray.part:main\n"
        },
        "entry_points.txt has the line 'ls = mantaray.part:main'",
    ),
    "purelib": (
        lambda custom: {
            f"{DIST_INFO}/WHEEL": inside(custom, f"{DIST_INFO}/WHEEL").replace(b"false", b"true")
        },
        "WHEEL has the line 'Root-Is-Purelib: true'",
    ),
    "claimed_top_level": (
        lambda custom: {f"{DIST_INFO}/top_level.txt": b"mantaray\nos\nray\n"},
        "top_level.txt has the line 'os'",
    ),
}


def native_name(custom: Path) -> str:
    """Return the name of the extension module in a wheel."""
    with zipfile.ZipFile(custom) as wheel:
        return next(name for name in wheel.namelist() if name.startswith("mantaray/_native."))


@pytest.mark.parametrize("way", TAMPERING)
def test_tampering(custom: Path, official: Path, release: Path, way: str) -> None:
    change, words = TAMPERING[way]
    copy = tampered(custom, change(custom), fix_record=True)
    found = verify_wheel(copy, official, release)
    assert not found.ok
    assert any(words in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(
    "name",
    [
        "mantaray/extra.py",
        "mantaray/extra.pth",
        "ray/extra.py",
        f"{DIST_INFO}/mantaray/more",
        "x.pth",
    ],
)
def test_added_file_against_the_official_wheel(
    custom: Path, official: Path, release: Path, name: str
) -> None:
    copy = tampered(custom, {name: b"x"}, fix_record=True)
    found = verify_wheel(copy, official, release)
    assert found.unexpected == (name,)
    assert not found.ok


def test_relay_of_a_wheel_of_its_own(
    build: Build, site: Path, out_dir: Path, official: Path, tmp_path: Path
) -> None:
    everything = shutil.copytree(site, tmp_path / "site")
    program = everything / "mantaray" / "bin" / "mantaray-relay"
    program.parent.mkdir()
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o755)
    contents = installed_contents(everything)
    custom = build_wheel(out_dir / "relay", source=official, contents=contents, allow_refused=True)
    parts: dict[bool, list[ContentFile]] = {True: [], False: []}
    for file in contents.files:
        parts[file.name.endswith("mantaray-relay")].append(file)
    release, relay = (
        write_release(
            Contents(contents.version, tuple(parts[is_relay]), contents.requirements),
            tmp_path / "parts",
            project="ray-mantaray-relay" if is_relay else "ray-mantaray",
        )
        for is_relay in (False, True)
    )
    assert verify_wheel(custom, official, release, relay).ok
    assert verify_wheel(custom, official, release).unexpected == ("mantaray/bin/mantaray-relay",)
    with pytest.raises(WheelError, match="is not the wheel of ray-mantaray-relay"):
        verify_wheel(custom, official, release, release)


def test_missing_file_of_mantaray(custom: Path, official: Path, release: Path) -> None:
    copy = tampered(custom, {"mantaray/part/__init__.py": None}, fix_record=True)
    found = verify_wheel(copy, official, release)
    assert found.missing == ("mantaray/part/__init__.py",)
    assert not found.ok


def test_record_with_a_line_too_many(custom: Path, official: Path, release: Path) -> None:
    record = f"{DIST_INFO}/RECORD"
    line = b"../../../etc/somewhere,,\n"
    copy = tampered(custom, {record: inside(custom, record) + line})
    found = verify_wheel(copy, official, release)
    assert any("RECORD has the line '../../../etc/somewhere,,'" in p for p in found.problems)


def test_looser_platform_than_the_native_parts_need(
    custom: Path, official: Path, release: Path
) -> None:
    name = "-".join([*custom.name.split("-")[:-1], "manylinux1_x86_64.whl"])
    found = verify_wheel(tampered(custom, {}, file_name=name), official, release)
    assert f"the file has to be called {custom.name}" in found.problems


def test_another_release_of_mantaray_is_not_compared_with(
    custom: Path, official: Path, contents: Contents, tmp_path: Path
) -> None:
    other = write_release(contents, tmp_path / "other", "9.9.9")
    with pytest.raises(WheelError, match="is not the wheel of ray-mantaray"):
        verify_wheel(custom, official, other)
    with pytest.raises(WheelError, match="is not the wheel of ray-mantaray"):
        verify_wheel(custom, official, official)


def test_wheel_of_another_mantaray_is_verified_with_that_one(
    custom: Path, official: Path, release: Path
) -> None:
    name = custom.name.replace(f"mantaray.{mantaray.__version__}", "mantaray.9.9.9")
    with pytest.raises(WheelError, match=r"was made by Mantaray 9\.9\.9, and this is"):
        verify_wheel(tampered(custom, {}, file_name=name), official, release)


def test_renamed_to_other_tags(custom: Path) -> None:
    name = "-".join([*custom.name.split("-")[:-1], "manylinux1_x86_64.whl"])
    found = verify_wheel(tampered(custom, {}, file_name=name))
    assert found.problems == ("WHEEL has other tags than the file name",)


def test_renamed_to_another_version(custom: Path) -> None:
    name = custom.name.replace("2.60.0", "2.59.0")
    found = verify_wheel(tampered(custom, {}, file_name=name))
    assert "METADATA has another version than the file name" in found.problems


def test_official_wheel_is_no_custom_wheel(official: Path) -> None:
    with pytest.raises(WheelError, match="is not a custom wheel made by"):
        verify_wheel(official)


def test_against_another_ray(custom: Path, tmp_path: Path) -> None:
    other = RayWheel(version="2.59.0").write(tmp_path / "other")
    with pytest.raises(WheelError, match=r"is not the official wheel of Ray 2\.60\.0"):
        verify_wheel(custom, other)


def test_against_a_damaged_official_wheel(custom: Path, official: Path) -> None:
    data = bytearray(official.read_bytes())
    # Behind the first file's header: packed content.
    data[70] ^= 0xFF
    official.write_bytes(data)
    with pytest.raises(WheelError, match="is damaged"):
        verify_wheel(custom, official)


def test_truncated_custom_wheel(custom: Path) -> None:
    custom.write_bytes(custom.read_bytes()[:-100])
    with pytest.raises(WheelError, match="is damaged"):
        verify_wheel(custom)
