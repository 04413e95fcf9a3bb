"""Custom Ray wheels: an official wheel, every file of it byte for byte, with Mantaray inside.

`build_wheel` makes one, and `verify_wheel` checks that upstream's files in it are unchanged. Every error
that a user can meet is a `WheelError` with a hint. Each name is fetched from its module at first use,
because every process of a cluster imports the patch of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mantaray.lazy import fetching

if TYPE_CHECKING:
    from mantaray.wheel.builder import build_wheel as build_wheel
    from mantaray.wheel.errors import WheelError as WheelError
    from mantaray.wheel.verifier import Verification as Verification
    from mantaray.wheel.verifier import verify_wheel as verify_wheel

_HOMES = {
    "Verification": "verifier",
    "WheelError": "errors",
    "build_wheel": "builder",
    "verify_wheel": "verifier",
}
__getattr__ = fetching(__name__, _HOMES)
