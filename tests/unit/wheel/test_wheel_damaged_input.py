"""Every input that is not fit for a custom wheel: refused with one sentence, and no output file."""

from __future__ import annotations

import random
import resource
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mantaray.wheel import WheelError, build_wheel
from mantaray.wheel.contents import Contents, installed_contents
from synthetic_ray import MACHINE, PYTHON, RayWheel

Refused = Callable[..., str]


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def data_offset(path: Path, name: str) -> int:
    """Return where the packed content of a file starts in a wheel."""
    with zipfile.ZipFile(path) as wheel:
        info = wheel.getinfo(name)
    return info.header_offset + 30 + len(name)


def test_missing_file(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / f"ray-2.60.0-{PYTHON}-{PYTHON}-linux_{MACHINE}.whl"
    assert "cannot be read: No such file" in refused(path)


def test_empty_file(tmp_path: Path, refused: Refused) -> None:
    path = RayWheel().write(tmp_path)
    path.write_bytes(b"")
    assert "is damaged" in refused(path)


def test_not_a_zip_file(tmp_path: Path, refused: Refused) -> None:
    path = RayWheel().write(tmp_path)
    path.write_bytes(b"<html>404</html>" * 1000)
    assert "is damaged" in refused(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, refused: Refused, keep: float) -> None:
    path = RayWheel().write(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert "is damaged" in refused(path)


def test_flipped_byte_in_packed_content(tmp_path: Path, refused: Refused) -> None:
    path = RayWheel().write(tmp_path)
    flip(path, data_offset(path, "ray/core/data.bin") + 20)
    message = refused(path)
    assert "is damaged: ray/core/data.bin cannot be unpacked" in message


def test_flipped_byte_in_zip_directory(tmp_path: Path, refused: Refused) -> None:
    path = RayWheel().write(tmp_path)
    data = path.read_bytes()
    flip(path, data.index(b"PK\x01\x02"))
    assert "is damaged" in refused(path)


def test_hole_of_zeros(tmp_path: Path, refused: Refused) -> None:
    path = RayWheel().write(tmp_path)
    data = bytearray(path.read_bytes())
    start = data_offset(path, "ray/core/data.bin")
    data[start : start + 64] = bytes(64)
    path.write_bytes(data)
    assert "is damaged" in refused(path)


def test_content_other_than_record_says(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel()
    lines = [f"{name},sha256={'A' * 43},{len(data)}" for name, data in ray.files.items()]
    ray.record = "\n".join(lines)
    assert "is not what its RECORD says" in refused(ray.write(tmp_path))


def test_file_that_record_does_not_name(tmp_path: Path, refused: Refused) -> None:
    path = RayWheel().write(tmp_path)
    with zipfile.ZipFile(path, "a") as wheel:
        wheel.writestr("ray/smuggled.py", "import os")
    assert "its RECORD does not name ray/smuggled.py" in refused(path)


def test_record_names_absent_file(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel()
    full = zipfile.ZipFile(ray.write(tmp_path)).read(f"{ray.dist_info}/RECORD").decode()
    ray.record = full
    del ray.files["ray/scripts.py"]
    assert "names ray/scripts.py, which it does not have" in refused(ray.write(tmp_path))


@pytest.mark.parametrize(
    "line",
    ["ray/__init__.py", "ray/a.py,sha256,12", "ray/a.py,md5=AAAA,12", "ray/a.py,sha256=AA==,x"],
)
def test_malformed_record(tmp_path: Path, refused: Refused, line: str) -> None:
    assert "the RECORD of" in refused(RayWheel(record=line).write(tmp_path))


def test_no_record(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel()
    path = ray.write(tmp_path)
    with zipfile.ZipFile(path, "w") as out:
        for name, data in ray.files.items():
            out.writestr(name, data)
    assert "it has no ray-2.60.0.dist-info/RECORD" in refused(path)


def test_two_metadata_directories(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel(files={"other-1.dist-info/METADATA": b"x"})
    assert "2 .dist-info directories" in refused(ray.write(tmp_path))


def test_same_file_twice(tmp_path: Path, refused: Refused) -> None:
    path = RayWheel().write(tmp_path)
    with zipfile.ZipFile(path, "a") as wheel, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wheel.writestr("ray/__init__.py", "import os")
    assert "it has ray/__init__.py twice" in refused(path)


@pytest.mark.parametrize("name", ["../outside.py", "/etc/outside", "ray/../../outside.py"])
def test_file_that_would_land_elsewhere(tmp_path: Path, refused: Refused, name: str) -> None:
    assert "would land elsewhere" in refused(RayWheel(files={name: b"x"}).write(tmp_path))


def test_not_named_like_a_wheel(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel(file_name="ray-latest.whl")
    assert "is not named like a wheel" in refused(ray.write(tmp_path))


def test_not_ray(tmp_path: Path, refused: Refused) -> None:
    assert "is a wheel of numpy, not of Ray" in refused(RayWheel(name="numpy").write(tmp_path))


def test_not_ray_but_named_ray(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel(inner_name="numpy")
    assert "holds numpy 2.60.0 by its METADATA" in refused(ray.write(tmp_path))


def test_other_version_than_asked_for(tmp_path: Path, refused: Refused) -> None:
    path = RayWheel().write(tmp_path)
    assert "is Ray 2.60.0, but --ray asks for 2.48.0" in refused(path, ray_version="2.48.0")


def test_renamed_to_another_version(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel(version="2.60.0", inner_version="2.59.0")
    assert "holds ray 2.59.0 by its METADATA" in refused(ray.write(tmp_path))


@pytest.mark.parametrize("version", ["2.47.1", "2.61.0", "3.0.0"])
def test_unsupported_ray(tmp_path: Path, refused: Refused, version: str) -> None:
    message = refused(RayWheel(version=version).write(tmp_path))
    assert version in message
    assert "2.48.0 to 2.60.0" in message


def test_unsupported_ray_is_not_even_downloaded(contents: Contents, out_dir: Path) -> None:
    said: list[str] = []
    with pytest.raises(WheelError, match=r"1\.0\.0"):
        build_wheel(
            out_dir, ray_version="1.0.0", contents=contents, allow_refused=True, say=said.append
        )
    assert said == []


def test_text_that_is_no_version(contents: Contents, out_dir: Path) -> None:
    with pytest.raises(WheelError, match="'newest' is not a version"):
        build_wheel(out_dir, ray_version="newest", contents=contents, allow_refused=True)


def test_neither_version_nor_wheel(contents: Contents, out_dir: Path) -> None:
    with pytest.raises(WheelError, match="neither a Ray version nor an official wheel"):
        build_wheel(out_dir, contents=contents, allow_refused=True)


def test_wrong_interpreter(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel(python="cp39", inner_tag=f"cp39-cp39-linux_{MACHINE}")
    message = refused(ray.write(tmp_path))
    assert f"is for cp39 on manylinux2014_{MACHINE}; this is {PYTHON} on" in message


@pytest.mark.parametrize("platform", ["macosx_12_0_arm64", "win_amd64", "manylinux2014_s390x"])
def test_wrong_platform(tmp_path: Path, refused: Refused, platform: str) -> None:
    ray = RayWheel(platform=platform, inner_tag=f"{PYTHON}-{PYTHON}-{platform}")
    assert f"on {platform}; this is" in refused(ray.write(tmp_path))


def test_renamed_to_this_interpreter(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel(inner_tag=f"cp39-cp39-linux_{MACHINE}")
    assert f"is for cp39-cp39-linux_{MACHINE} by its WHEEL" in refused(ray.write(tmp_path))


def test_renamed_to_this_platform(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel(inner_tag=f"{PYTHON}-{PYTHON}-linux_s390x")
    assert "linux_s390x by its WHEEL" in refused(ray.write(tmp_path))


def test_already_patched(
    refused: Refused, contents: Contents, tmp_path: Path, out_dir: Path
) -> None:
    first = build_wheel(
        tmp_path / "first",
        source=RayWheel().write(tmp_path / "in"),
        contents=contents,
        allow_refused=True,
    )
    assert "is patched already" in refused(first)


def test_already_patched_and_renamed(tmp_path: Path, refused: Refused) -> None:
    ray = RayWheel(files={"mantaray/__init__.py": b""})
    assert "is patched already" in refused(ray.write(tmp_path))


def test_no_native_part(tmp_path: Path, site: Path) -> None:
    (tmp_path / "mantaray").mkdir()
    (tmp_path / "mantaray" / "__init__.py").write_text("")
    (tmp_path / "mantaray" / "requirements.txt").write_text("")
    (tmp_path / "mantaray.pth").write_text("")
    with pytest.raises(WheelError, match="has no native part") as caught:
        installed_contents(tmp_path)
    assert "ray-mantaray" in caught.value.hint


def test_native_part_that_is_no_machine_code(tmp_path: Path, contents: Contents) -> None:
    (tmp_path / "mantaray").mkdir()
    (tmp_path / "mantaray" / "requirements.txt").write_text("")
    (tmp_path / contents.natives[0].name).write_text("a text")
    (tmp_path / "mantaray.pth").write_text("")
    with pytest.raises(WheelError, match="has no native part"):
        installed_contents(tmp_path)


def test_no_pth_file(tmp_path: Path) -> None:
    (tmp_path / "mantaray").mkdir()
    with pytest.raises(WheelError, match=r"mantaray\.pth: No such file"):
        installed_contents(tmp_path)


def test_output_directory_is_a_file(
    tmp_path: Path, refused: Refused, out_dir: Path, contents: Contents
) -> None:
    out_dir.write_text("in the way")
    with pytest.raises(
        WheelError, match=r"out/ray-2\.60\.0\+mantaray.* cannot be written"
    ) as caught:
        build_wheel(
            out_dir, source=RayWheel().write(tmp_path / "in"), contents=contents, allow_refused=True
        )
    assert "-o" in caught.value.hint
    assert out_dir.read_text() == "in the way"


def test_output_directory_that_nobody_can_write(tmp_path: Path, contents: Contents) -> None:
    # Root may write anywhere else; in /proc not even root makes files.
    with pytest.raises(WheelError, match=r"/proc/.* cannot be written"):
        build_wheel(
            Path("/proc"), source=RayWheel().write(tmp_path), contents=contents, allow_refused=True
        )


def test_disk_that_fills_up_half_way(tmp_path: Path, refused: Refused, contents: Contents) -> None:
    # Noise, so that it does not shrink; more than the limit, while the native parts stay below it.
    limit = sum(file.source.stat().st_size for file in contents.natives) + 100_000
    noise = random.Random(1).randbytes(limit)
    source = RayWheel(files={"ray/noise.bin": noise}).write(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        message = refused(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written: File too large" in message


def test_earlier_wheel_survives_a_failure(
    tmp_path: Path, contents: Contents, out_dir: Path
) -> None:
    good = build_wheel(
        out_dir, source=RayWheel().write(tmp_path / "in"), contents=contents, allow_refused=True
    )
    before = good.read_bytes()
    bad = RayWheel().write(tmp_path / "in")
    flip(bad, data_offset(bad, "ray/core/data.bin") + 20)
    with pytest.raises(WheelError, match="is damaged"):
        build_wheel(out_dir, source=bad, contents=contents, allow_refused=True)
    assert [path.name for path in out_dir.iterdir()] == [good.name]
    assert good.read_bytes() == before


@pytest.mark.parametrize("value", ["soon", "1e9", "99999999999", "9" * 30])
def test_bad_source_date_epoch(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    path = RayWheel().write(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    message = refused(path)
    assert f"SOURCE_DATE_EPOCH is set to '{value}'" in message


def test_auditwheel_missing(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None is how the import system marks a module as not there.
    monkeypatch.setitem(sys.modules, "auditwheel", None)
    assert "auditwheel, which decides the platform tag, is not installed" in refused(
        RayWheel().write(tmp_path)
    )
