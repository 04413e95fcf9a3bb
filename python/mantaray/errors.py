"""The error of a start with a setting or a configuration that is not allowed."""

from __future__ import annotations

import click


class StartError(ValueError, click.ClickException):
    """A setting or configuration that is not allowed, in one sentence.

    It is a click exception as well, so that `ray start` prints that sentence and ends instead of
    showing a traceback.
    """

    def __init__(self, message: str) -> None:
        """Keep the sentence."""
        ValueError.__init__(self, message)
        click.ClickException.__init__(self, message)
