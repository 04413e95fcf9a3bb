"""What a single extension module or program, of any machine, asks of the system that it runs on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from mantaray.wheel.contents import ContentFile
from mantaray.wheel.platform_tag import audited_tag

_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]|program interpreter: (.+)\]")


def audit(program: Path, machine: str) -> str:
    """Return the platform tag that auditwheel finds.

    Args:
        program: the extension module or program.
        machine: what it is for, "aarch64".

    Raises:
        mantaray.wheel.WheelError: auditwheel is missing or gives no verdict.
    """
    file = ContentFile(f"natives/{program.name}", program, executable=True, native=True)
    return audited_tag([file], machine)


def needed_libraries(program: Path) -> list[str]:
    """Return the shared libraries and the loader that a program needs; empty if it is static.

    Args:
        program: an ELF file of any machine.

    Raises:
        subprocess.CalledProcessError: readelf cannot read it.
    """
    said = subprocess.run(
        ["readelf", "--dynamic", "--program-headers", str(program)],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [library or loader for library, loader in _NEEDED.findall(said.stdout)]
