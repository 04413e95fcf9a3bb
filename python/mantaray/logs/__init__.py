"""The end of log files of any size and shape, in bounded memory and time; see docs/logs.md."""

from __future__ import annotations

from mantaray.logs.reading import NotALogFileError, tail

__all__ = ["NotALogFileError", "tail"]
