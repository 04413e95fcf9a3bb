"""Output of the command: tables on stdout, and errors on stderr, each with a hint on its own line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import click

import mantaray

# If another project's package of this name was installed over Mantaray, there may be no version. The
# doctor must start even then, so that it can report this.
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
    """Return rows as aligned columns. The last column is not padded.

    Args:
        header: a name for each column.
        rows: each with one cell for each column.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
