"""`verify` tells an intact custom wheel from one in which anything is not as it was made."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mantaray.wheel import WheelError, verify_wheel
from synthetic_ray import RayWheel, hashed

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


def test_intact_against_the_official_wheel(custom: Path, official: Path) -> None:
    found = verify_wheel(custom, official)
    assert found.ok
    assert found.reference == official.name


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


def test_changed_upstream_file_with_kept_record_made_to_match(custom: Path, official: Path) -> None:
    with zipfile.ZipFile(custom) as wheel:
        kept = wheel.read(KEPT).decode()
    old = RayWheel().files["ray/scripts.py"]
    forged = kept.replace(f"{hashed(old)},{len(old)}", f"{hashed(b'evil')},4").encode()
    changes: dict[str, bytes | None] = {"ray/scripts.py": b"evil", KEPT: forged}
    copy = tampered(custom, changes, fix_record=True)
    assert verify_wheel(copy).ok, "the wheel alone cannot tell; the official one can"
    found = verify_wheel(copy, official)
    assert found.changed == ("ray/scripts.py",)
    assert "UPSTREAM_RECORD is not the RECORD of" in found.problems[0]


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


def test_lost_permission_shows_against_the_official_wheel(custom: Path, official: Path) -> None:
    copy = tampered(custom, {}, modes={"ray/core/raylet": 0o100644})
    found = verify_wheel(copy, official)
    assert found.problems == ("ray/core/raylet has other permissions than upstream's",)


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


def test_against_another_release(custom: Path, tmp_path: Path) -> None:
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
