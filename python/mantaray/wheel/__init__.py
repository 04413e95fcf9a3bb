"""Custom Ray wheels: an official wheel, every file of it byte for byte, with Mantaray inside.

`build_wheel` makes one, `verify_wheel` shows that upstream's files in it are unchanged. Whatever a
user can meet is a `WheelError` with a hint.
"""

from __future__ import annotations

from mantaray.wheel.builder import build_wheel
from mantaray.wheel.errors import WheelError
from mantaray.wheel.verifier import Verification, verify_wheel

__all__ = ["Verification", "WheelError", "build_wheel", "verify_wheel"]
