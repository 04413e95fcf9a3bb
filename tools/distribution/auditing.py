"""What auditwheel says of a single extension module or program, of any machine."""

from __future__ import annotations

from pathlib import Path

from mantaray.wheel.contents import ContentFile
from mantaray.wheel.platform_tag import audited_tag


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
