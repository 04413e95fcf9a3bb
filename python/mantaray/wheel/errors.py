"""The error that a user can meet when a custom wheel is made or checked."""

from __future__ import annotations


class WheelError(Exception):
    """A wheel is not as it should be, or cannot be made.

    Attributes:
        hint: what to do about it, in words.
    """

    def __init__(self, message: str, hint: str) -> None:
        """Keep the sentence and the hint apart, so that each gets a line of its own.

        Args:
            message: what happened, to what; one sentence without a final full stop.
            hint: what to do about it.
        """
        super().__init__(message)
        self.hint = hint
