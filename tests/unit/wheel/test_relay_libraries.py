"""The pinned libraries of the published relay: what is taken, what is refused, what the refusal says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.distribution import debian, sbom, sysroot
from tools.distribution.auditing import needed_libraries

DIGEST = re.compile(r"[0-9a-f]{64}")


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "relay_libraries.txt"
    path.write_text(f"# suite package ...\nsid libexample-dev 1.0-1 {'0' * 64} {'1' * 64}\n")
    return path


def package(directory: Path) -> Path:
    """Build a package with one file in it."""
    tree = directory / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: libexample-dev\nVersion: 1.0-1\nArchitecture: amd64\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: example\n"
    )
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/libexample.a").write_text("!<arch>\n")
    file = directory / "libexample-dev_1.0-1_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(file)], check=True, capture_output=True)
    return file


def given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every suite give this file."""
    monkeypatch.setattr(debian, "available", lambda: True)
    monkeypatch.setattr(debian.Suite, "fetch", lambda self, name, version: file)


def test_every_linked_library_is_pinned_for_every_machine() -> None:
    pins = sysroot.pins()
    assert sbom._RELAY_LIBRARIES.keys() <= {pin.package for pin in pins}
    for pin in pins:
        assert pin.digests.keys() == sysroot.ARCHITECTURES.keys()
        assert all(DIGEST.fullmatch(digest) for digest in pin.digests.values()), pin


def test_a_line_that_pins_nothing_is_refused(lock: Path) -> None:
    lock.write_text("sid libexample-dev 1.0-1\n")
    with pytest.raises(sysroot.SysrootError, match="sid libexample-dev"):
        sysroot.pins(lock)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_package_with_another_digest_is_refused_and_not_kept(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package(tmp_path)
    given(file, monkeypatch)
    with pytest.raises(sysroot.SysrootError, match="has sha256"):
        sysroot.unpack("x86_64", tmp_path / "scratch", lock)
    assert not file.exists()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_changed_pin_unpacks_anew(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    file = package(tmp_path)
    given(file, monkeypatch)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    lock.write_text(f"sid libexample-dev 1.0-1 {digest} {'1' * 64}\n")
    root = sysroot.unpack("x86_64", tmp_path / "scratch", lock)
    assert (root / "usr/lib/libexample.a").read_text() == "!<arch>\n"
    (root / "usr/lib/of-an-earlier-version.a").touch()
    assert sysroot.unpack("x86_64", tmp_path / "scratch", lock) == root
    assert (root / "usr/lib/of-an-earlier-version.a").exists()
    lock.write_text(lock.read_text() + "# another\n")
    sysroot.unpack("x86_64", tmp_path / "scratch", lock)
    assert not (root / "usr/lib/of-an-earlier-version.a").exists()


def test_a_version_that_debian_no_longer_has_names_the_command(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: debian.Suite, name: str, version: str) -> Path:
        raise debian.DebianError("apt-get: E: Version '1.0-1' for 'libexample-dev' was not found")

    monkeypatch.setattr(debian, "available", lambda: True)
    monkeypatch.setattr(debian.Suite, "fetch", gone)
    with pytest.raises(sysroot.SysrootError, match=r"python -m tools.distribution raise"):
        sysroot.unpack("x86_64", tmp_path / "scratch", lock)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_a_program_that_needs_libraries_is_not_taken_for_static() -> None:
    assert any("libc" in name or "ld-" in name for name in needed_libraries(Path("/bin/sh")))
