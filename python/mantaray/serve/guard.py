"""Keeps failures of Mantaray from ending Ray's routing tasks: each is logged once, and Ray goes on.

A routing task that ends with an exception leaves its request unanswered. So everything that a hook
does besides calling Ray's method runs inside `guarded`.
"""

from __future__ import annotations

import logging
from types import TracebackType

_LOGGER = logging.getLogger("ray.serve")
_logged: set[str] = set()


def log_failure(where: str) -> None:
    """Log the exception that is being handled, once for each place in a process.

    Args:
        where: what Mantaray was doing, such as "noting that a request has completed".
    """
    if where in _logged:
        return
    _logged.add(where)
    _LOGGER.exception(
        f"Mantaray's replica router failed while {where}. The request is routed as Ray does without "
        "Mantaray. Further failures of this kind are not logged. MANTARAY_PATCHES=-router,-slots "
        "switches this part off."
    )


class guarded:
    """A context manager that logs an exception and swallows it; cancellation passes through.

    Attributes:
        failed: whether there was an exception.
    """

    __slots__ = ("_where", "failed")

    def __init__(self, where: str) -> None:
        """Name what the block does.

        Args:
            where: for the log.
        """
        self._where = where
        self.failed = False

    def __enter__(self) -> guarded:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        self.failed = True
        log_failure(self._where)
        return True
