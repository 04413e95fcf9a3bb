"""The end of log files of any size and shape, in bounded memory and time; see docs/logs.md.

Each name is fetched from its module at first use: every process of Ray imports the patches beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mantaray.logs.reading import NotALogFileError, tail

__all__ = ["NotALogFileError", "tail"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mantaray.logs import reading

    return getattr(reading, name)
