"""Finds the platform tag of a custom wheel: what the native parts really need, according to auditwheel.

auditwheel's Python interface changes from release to release, but the sentence of `auditwheel show` does
not. So auditwheel is run as a program, on a small wheel that contains only the native parts.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mantaray.helpers import python_command
from mantaray.wheel.archive import WheelWriter
from mantaray.wheel.contents import ContentFile
from mantaray.wheel.errors import WheelError
from mantaray.wheel.record import entry_of, format_record

_VERDICT = re.compile(r'is consistent with the following platform tag: "([^"]+)"')
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_\w+")
# The older names of tags, which do not contain the glibc version (PEP 600 lists them).
_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_AUDIT_TIMEOUT_S = 300.0
# A tag without a promise, such as linux_x86_64: the wheel runs only on machines like the one that built it.
_NO_PROMISE = (1 << 30, 0)


def needed_glibc(tag: str) -> tuple[int, int]:
    """Return the glibc that a platform tag asks for, (2, 17) for manylinux2014_x86_64.

    A plain linux tag promises nothing, so it counts as newer than every glibc.

    Args:
        tag: one platform tag.
    """
    match = _MANYLINUX.fullmatch(tag)
    if match:
        return int(match[1]), int(match[2])
    return _OLD_NAMES.get(tag.partition("_")[0], _NO_PROMISE)


def architecture(tag: str) -> str:
    """Return the machine of a platform tag, "x86_64" for manylinux_2_17_x86_64."""
    return re.sub(r"^(manylinux_\d+_\d+|musllinux_\d+_\d+|macosx_\d+_\d+|[a-z]+\d*)_", "", tag)


def stricter(upstream: str, ours: str) -> str:
    """Return the platform tag for a wheel that holds upstream's binaries and ours.

    Args:
        upstream: the tag of upstream's file name. Of several tags, joined by dots, any will do.
        ours: the tag of Mantaray's native parts.
    """
    loosest = min(needed_glibc(tag) for tag in upstream.split("."))
    return upstream if needed_glibc(ours) <= loosest else ours


def audited_tag(natives: Iterable[ContentFile], machine: str | None = None) -> str:
    """Return the platform tag that the native parts fulfil, as auditwheel judges.

    Args:
        natives: the files; at least one.
        machine: the machine that they are for, "aarch64"; this machine by default.

    Raises:
        WheelError: auditwheel is missing or gives no verdict.
    """
    if importlib.util.find_spec("auditwheel") is None:
        raise WheelError(
            "auditwheel, which decides the platform tag, is not installed",
            "pip install 'ray-mantaray[wheel]'",
        )
    with tempfile.TemporaryDirectory(prefix="mantaray-audit-") as scratch:
        wheel = _mini_wheel(Path(scratch), natives, machine)
        command = python_command("auditwheel", "show", str(wheel))
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_AUDIT_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise WheelError(
                f"auditwheel gave no verdict on the native parts within {_AUDIT_TIMEOUT_S:.0f} s",
                "try again when the machine is less busy",
            ) from error
    # auditwheel wraps its sentences to the width of a page.
    verdict = _VERDICT.search(" ".join(done.stdout.split()))
    if verdict is None:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise WheelError(
            f"auditwheel gave no verdict on the native parts (status {done.returncode}: {last})",
            "pip install --upgrade 'ray-mantaray[wheel]'",
        )
    return verdict[1]


def _mini_wheel(directory: Path, natives: Iterable[ContentFile], machine: str | None) -> Path:
    """Write a wheel of the native parts alone. In a whole Ray wheel, Ray's binaries would be judged too."""
    platform = f"linux_{machine}" if machine else sysconfig.get_platform()
    platform = platform.replace("-", "_").replace(".", "_")
    tag = f"py3-none-{platform}"
    info = "natives-0.dist-info"
    wheel = directory / f"natives-0-{tag}.whl"
    files = {file.name: file.source.read_bytes() for file in natives}
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: natives\nVersion: 0\n"
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    entries = [(name, entry_of(data)) for name, data in files.items()]
    files[f"{info}/RECORD"] = format_record(entries, f"{info}/RECORD")
    with wheel.open("wb") as out, WheelWriter(out) as writer:
        for name, data in files.items():
            writer.add(name, data, 0)
    return wheel
