"""Loads the native module in a process of its own and prints what went wrong, or nothing.

Started by `mantaray.overlay.native_module`.
"""

from __future__ import annotations

from mantaray.overlay.native_module import import_problem

if __name__ == "__main__":
    print(import_problem() or "")
