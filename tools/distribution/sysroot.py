"""The static libraries that the published relay is linked with: a current gRPC and all below it.

They are Debian's own archives, unpacked into a directory and not installed. `relay_libraries.txt`
pins each by version and SHA-256; apt checks Debian's signature on top. gRPC comes from Debian's
experimental suite, because its other suites still have 1.51. A suite that moves on no longer has
the pinned version, so `python -m tools.distribution raise` pins what Debian has now.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.distribution import debian

LOCK = Path(__file__).with_name("relay_libraries.txt")
# What Debian calls these machines.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_HEAD = (
    "# The packages of Debian that the published relay is linked with, written by\n"
    "# `python -m tools.distribution raise`:\n"
    "# suite package version sha256-amd64 sha256-arm64\n"
)


class SysrootError(RuntimeError):
    """The libraries cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Pin:
    """One pinned package.

    Args:
        suite: the suite of Debian that has it.
        package: its name.
        version: its version, the same for all machines.
        digests: the SHA-256 of its file by machine.
    """

    suite: str
    package: str
    version: str
    digests: dict[str, str]


def pins(lock: Path = LOCK) -> list[Pin]:
    """Return the pinned packages.

    Raises:
        SysrootError: a line of the file has not one word for each column.
    """
    found = []
    for line in lock.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 3 + len(ARCHITECTURES):
            raise SysrootError(f"{lock.name} has a line that pins nothing: {line!r}")
        digests = dict(zip(ARCHITECTURES, words[3:], strict=True))
        found.append(Pin(words[0], words[1], words[2], digests))
    return found


def unpack(machine: str, scratch: Path, lock: Path = LOCK) -> Path:
    """Return a directory with the pinned libraries and headers of a machine; made if missing.

    Args:
        machine: "x86_64" or "aarch64".
        scratch: where packages and directories are kept.
        lock: the file with the pins.

    Raises:
        SysrootError: a package cannot be had in the pinned version, or has another digest.
    """
    if not debian.available():
        raise SysrootError(
            "the relay is linked with packages of Debian, and this machine has no apt of Debian"
        )
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    root = scratch / f"relay-{machine}"
    stamp = root / ".pins"
    if stamp.is_file() and stamp.read_text() == digest:
        return root
    shutil.rmtree(root, ignore_errors=True)
    wanted = pins(lock)
    for suite in sorted({pin.suite for pin in wanted}):
        archive = debian.Suite(suite, ARCHITECTURES[machine], scratch)
        for pin in [pin for pin in wanted if pin.suite == suite]:
            debian.extract(_package(archive, pin, machine), root)
    stamp.write_text(digest)
    return root


def _package(archive: debian.Suite, pin: Pin, machine: str) -> Path:
    try:
        file = archive.fetch(pin.package, pin.version)
    except debian.DebianError as error:
        raise SysrootError(
            f"Debian {pin.suite} does not give {pin.package} {pin.version} ({error}); if it has a "
            "newer version now, run `python -m tools.distribution raise` and test the relay"
        ) from error
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != pin.digests[machine]:
        file.unlink()
        raise SysrootError(
            f"{file.name} has sha256 {digest}; {LOCK.name} says {pin.digests[machine]}"
        )
    return file


def raised(wanted: Iterable[Pin], scratch: Path) -> str:
    """Return the text of a file that pins the newest version of the same packages.

    Args:
        wanted: the suites and packages; their versions do not matter.
        scratch: where apt's lists are kept.

    Raises:
        SysrootError: the architectures have different versions at the moment.
        DebianError: a suite has no such package.
    """
    lines = []
    suites = {
        (name, machine): debian.Suite(name, architecture, scratch)
        for name in {pin.suite for pin in wanted}
        for machine, architecture in ARCHITECTURES.items()
    }
    for pin in wanted:
        newest = {
            machine: suites[pin.suite, machine].newest(pin.package) for machine in ARCHITECTURES
        }
        versions = {version for version, _ in newest.values()}
        if len(versions) != 1:
            raise SysrootError(
                f"Debian {pin.suite} has {pin.package} in different versions for different machines "
                f"({', '.join(sorted(versions))}); try again in some hours"
            )
        digests = [newest[machine][1] for machine in ARCHITECTURES]
        lines.append(" ".join([pin.suite, pin.package, *versions, *digests]))
    return _HEAD + "\n".join(lines) + "\n"
