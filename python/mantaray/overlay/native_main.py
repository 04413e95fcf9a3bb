"""Loads the native module in a process of its own and prints what went wrong, or nothing.

`mantaray.overlay.native_module` starts it.
"""

from __future__ import annotations

from mantaray.overlay.native_module import import_problem

if __name__ == "__main__":
    print(import_problem() or "")
