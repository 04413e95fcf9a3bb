"""`python -m mantaray.spill.clean_main DIRECTORY...`: removes left-over spill directories, quietly.

Started by a node as it starts; people use `mantaray spill clean`.
"""

from __future__ import annotations

import sys

from mantaray.spill.leftovers import remove

if __name__ == "__main__":
    remove(sys.argv[1:])
