"""How long a routing task waits when nothing wakes it: the fallback between two looks.

The knobs are those of Ray 2.49 and later, and work on older Rays too; the jitter is Mantaray's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from mantaray import settings

# A multiplier below 1 or a tiny first wait must not become a loop that never sleeps.
FLOOR_S = 0.001


@dataclass(frozen=True)
class Backoff:
    """Waits that grow by a factor up to a bound.

    Attributes:
        initial_s: the first wait, in seconds.
        multiplier: each wait is this many times the one before.
        max_s: the longest wait, in seconds.
        jitter: the share of a wait, from 0 to 1, of which a random part is left out.
    """

    initial_s: float
    multiplier: float
    max_s: float
    jitter: float

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Backoff:
        """Return the backoff that the settings ask for.

        Args:
            environ: where to look; the environment of this process by default.

        Raises:
            SettingError: one of them is not allowed.
        """
        return cls(
            settings.SERVE_INITIAL_BACKOFF_S.read(environ),
            settings.SERVE_BACKOFF_MULTIPLIER.read(environ),
            settings.SERVE_MAX_BACKOFF_S.read(environ),
            settings.SERVE_BACKOFF_JITTER.read(environ),
        )

    @classmethod
    def default(cls) -> Backoff:
        """Return the backoff that holds if nothing is set."""
        return cls.read({})

    def base_s(self, attempt: int) -> float:
        """Return the wait before retry number `attempt` (from 0) without jitter, in seconds."""
        try:
            wait_s = self.initial_s * self.multiplier**attempt
        except OverflowError:
            return self.max_s
        return min(wait_s, self.max_s)

    def jittered_s(self, base_s: float) -> float:
        """Return a wait with jitter, of at least a millisecond."""
        if math.isnan(base_s):
            base_s = self.max_s
        return max(base_s * (1 - self.jitter * random.random()), FLOOR_S)
