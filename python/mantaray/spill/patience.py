"""How long an operation that fails for a passing reason is tried again."""

from __future__ import annotations

import time

_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 1.0


class Patience:
    """Waits between attempts, longer and longer, until a deadline."""

    def __init__(self, limit_s: float) -> None:
        """Start the time.

        Args:
            limit_s: how long attempts may take in all, in seconds.
        """
        self._deadline_s = time.monotonic() + limit_s
        self._delay_s = _FIRST_DELAY_S

    def wait(self) -> bool:
        """Wait before another attempt; return whether there is to be one."""
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(self._delay_s, left_s))
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)
        return True
