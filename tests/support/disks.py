"""Small file systems that can be filled: a tmpfs, or ext4 in a file.

Both need root and a kernel that lets it mount; where that is not so the test is skipped and says
why.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_UNMOUNT_TIMEOUT_S = 10.0


@contextlib.contextmanager
def small_tmpfs(size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size and yield its directory."""
    _need("mount", "umount")
    with _mount_point() as directory:
        _mount(directory, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs")
        with _mounted(directory):
            yield directory


@contextlib.contextmanager
def small_ext4(size_bytes: int) -> Iterator[Path]:
    """Mount an ext4 of this size (with O_TMPFILE, links and holes) and yield its directory."""
    _need("mount", "umount", "mkfs.ext4")
    with _mount_point() as directory:
        image = directory.with_suffix(".img")
        try:
            with open(image, "wb") as file:
                file.truncate(size_bytes)
            # No journal and no blocks set aside for root: nearly all of it is for data. Small file
            # systems get smaller blocks than those in use elsewhere, unless told.
            options = ["-q", "-b", "4096", "-m", "0", "-O", "^has_journal"]
            made = _run("mkfs.ext4", *options, str(image))
            if made:
                pytest.skip(f"mkfs.ext4 failed: {made}")
            _mount(directory, "-o", "loop", str(image))
            with _mounted(directory):
                (directory / "lost+found").rmdir()
                yield directory
        finally:
            image.unlink(missing_ok=True)


def free_bytes(directory: Path) -> int:
    """Return what an ordinary process may still write there, in bytes."""
    info = os.statvfs(directory)
    return info.f_bavail * info.f_frsize


def _need(*commands: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    for command in commands:
        if shutil.which(command, path=_path()) is None:
            pytest.skip(f"`{command}` is not installed")


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _run(*command: str) -> str:
    """Run the command; return its complaint, or nothing when all went well."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": _path()}
    )
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or "no reason given"


def _mount(directory: Path, *arguments: str) -> None:
    refused = _run("mount", *arguments, str(directory))
    if refused:
        pytest.skip(f"this machine does not let root mount: {refused}")


@contextlib.contextmanager
def _mount_point() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="md-", dir="/tmp"))
    try:
        yield directory
    finally:
        # Never recursive: if unmounting failed, this must not reach into the file system.
        with contextlib.suppress(OSError):
            directory.rmdir()


@contextlib.contextmanager
def _mounted(directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        deadline = time.monotonic() + _UNMOUNT_TIMEOUT_S
        refused = ""
        # The test itself may have unmounted it.
        while os.path.ismount(directory) and time.monotonic() < deadline:
            refused = _run("umount", str(directory))
            time.sleep(0.2 if refused else 0)
        if refused:
            # Detached now, freed with its last user; the failure still shows who kept it.
            _run("umount", "--lazy", str(directory))
            pytest.fail(f"{directory} was still in use at the end of the test: {refused}")
