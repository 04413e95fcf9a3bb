"""Removes left-over spill directories, quietly: `mantaray.spill.clean_main DIRECTORY...`.

A node starts it through `mantaray.helpers`. Users run `mantaray spill clean` instead.
"""

from __future__ import annotations

import sys

from mantaray.spill.leftovers import remove

if __name__ == "__main__":
    remove(sys.argv[1:])
