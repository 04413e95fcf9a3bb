"""How the command speaks: tables on stdout, errors with a hint on a line of its own on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import click

import mantaray

# Another project's package of the same name, installed over ours, has no version; the doctor has to
# start all the same, to say so.
VERSION = str(getattr(mantaray, "__version__", "(replaced)"))


class CliError(click.ClickException):
    """An error for the person at the terminal: what happened, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        """Keep both sentences.

        Args:
            message: what happened, to what.
            hint: what to do.
        """
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Write `error:` and `hint:` to stderr."""
        click.echo(f"error: {self.message}\nhint: {self.hint}", file=file, err=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns; the last one is as wide as it needs to be.

    Args:
        header: a name for each column.
        rows: as many cells each.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
