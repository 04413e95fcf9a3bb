"""The one error that making or checking a custom wheel raises for what a user can meet."""

from __future__ import annotations


class WheelError(Exception):
    """Something about a wheel, or about making one, that its user has to know.

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
