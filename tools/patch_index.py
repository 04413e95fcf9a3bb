"""Writes the index of patches, python/mantaray/overlay/index.py, from the modules that define them.

    python -m tools.patch_index [--check]

A test runs it with --check, which only compares.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from pprint import pformat

from mantaray.overlay import deferred
from mantaray.overlay.hooks import OVERLAY, subpackages_with_a_patch

import mantaray

INDEX = Path(mantaray.__file__).parent / "overlay" / "index.py"
_HEAD = '''"""What the overlay has to know of each patch. `python -m tools.patch_index` writes it."""

# ruff: noqa: E501
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mantaray.overlay.deferred import Entry

# fmt: off
PATCHES: tuple[Entry, ...] = '''


def text() -> str:
    """Return what the index ought to be. Only right in a process that has imported no patch before.

    Raises:
        ImportError: a module that defines patches cannot be imported.
    """
    entries = []
    known: set[str] = set()
    for package in subpackages_with_a_patch():
        importlib.import_module(f"mantaray.{package}.patch")
        patches = [patch for patch in OVERLAY.patches() if patch.name not in known]
        known.update(patch.name for patch in patches)
        entries.append(deferred.entry_of(package, patches))
    return _HEAD + pformat(tuple(entries), width=110) + "\n"


def main() -> int:
    """Write the index, or compare it; return 1 if it is out of date and may not be written."""
    wanted = text()
    if sys.argv[1:] == ["--check"]:
        if INDEX.read_text() == wanted:
            return 0
        print("the index of patches is out of date: python -m tools.patch_index", file=sys.stderr)
        return 1
    INDEX.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
