"""Saying once that no spill directory has room.

The raylet asks an IO worker to spill again at once and for as long as the disk is full, many times a
second, and Ray logs a traceback each time and sends another one to the drivers. One line is what helps.
"""

from __future__ import annotations

import logging
import time

# How often it is said again while the disk stays full.
REPEAT_S = 5.0

# The logger of Ray's functions that call the external storage.
_RAYS_HANDLERS = "ray._raylet"
# How a traceback names the error.
_SIGN = "SpillNoSpaceError: "

_last_pushed_s = -REPEAT_S


def quieten_rays_log() -> None:
    """Keep the tracebacks of this error out of this process's log."""
    logging.getLogger(_RAYS_HANDLERS).addFilter(_is_about_something_else)


def _is_about_something_else(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ + ": " != _SIGN


def for_drivers(message: str) -> str | None:
    """Return what drivers are to be told instead of a message of Ray's, None for nothing.

    Args:
        message: what Ray would tell them; anything but this error's traceback stays as it is.
    """
    global _last_pushed_s
    _, found, rest = message.partition(_SIGN)
    if not found:
        return message
    now_s = time.monotonic()
    if now_s - _last_pushed_s < REPEAT_S:
        return None
    _last_pushed_s = now_s
    return rest.splitlines()[0] + "."
