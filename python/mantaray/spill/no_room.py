"""Reports once in a while, in one line, that no spill directory has room.

While the disk is full, the raylet asks an IO worker to spill many times per second. Ray logs a traceback
each time and sends another one to the drivers.
"""

from __future__ import annotations

import logging
import time

# How long until the line is repeated while the disk stays full.
REPEAT_S = 5.0

# The logger that Ray's callers of the external storage use.
_RAYS_HANDLERS = "ray._raylet"
# How the last line of a traceback begins.
_ERROR_PREFIX = "SpillNoSpaceError: "

_last_pushed_s = -REPEAT_S


def quieten_rays_log() -> None:
    """Keep the tracebacks of this error out of this process's log."""
    logging.getLogger(_RAYS_HANDLERS).addFilter(_is_about_something_else)


def _is_about_something_else(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ + ": " != _ERROR_PREFIX


def for_drivers(message: str) -> str | None:
    """Return the message that drivers get instead of a message of Ray; None for no message.

    Args:
        message: Ray's message. Everything except this error's traceback is returned as it is.
    """
    global _last_pushed_s
    _, found, rest = message.partition(_ERROR_PREFIX)
    if not found:
        return message
    now_s = time.monotonic()
    if now_s - _last_pushed_s < REPEAT_S:
        return None
    _last_pushed_s = now_s
    return rest.splitlines()[0] + "."
