"""Keeps failures of Mantaray from ending Ray's routing tasks: each is logged once, and Ray goes on.

A routing task that ends with an exception leaves its request unanswered. So a hook catches every
`Exception` of what it does besides calling Ray's method, and logs it here; cancellation passes through.
A context manager would read better, and cost each request 5 to 10 us, because every hook has one.
"""

from __future__ import annotations

import logging

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
