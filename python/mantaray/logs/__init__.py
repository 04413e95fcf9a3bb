"""The end of log files of any size and shape, in bounded memory and time; see docs/logs.md.

Each name is fetched from its module at first use, because every process of Ray imports the patches here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mantaray.lazy import fetching

if TYPE_CHECKING:
    from mantaray.logs.reading import NotALogFileError, tail

__all__ = ["NotALogFileError", "tail"]
__getattr__ = fetching(__name__, dict.fromkeys(__all__, "reading"))
