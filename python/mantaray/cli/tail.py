"""`mantaray tail`: the end of a log file, as a terminal would show it, and what is added to it."""

from __future__ import annotations

import os
import time

import click

from mantaray.cli.output import CliError
from mantaray.logs import NotALogFileError, tail
from mantaray.logs.following import Follower

_POLL_S = 0.2
_NO_LIMIT_CHARS = 10_000_000


@click.command("tail")
@click.argument("file", type=click.Path(dir_okay=True))
@click.option("-n", "--lines", default=10, show_default=True, type=click.IntRange(min=0))
@click.option("--max-chars", default=_NO_LIMIT_CHARS, show_default=True, type=click.IntRange(min=0))
@click.option(
    "-f", "--follow", is_flag=True, help="Keep printing what is added, until interrupted."
)
@click.option(
    "--all-rewrites", is_flag=True, help="Show all states of a line that was rewritten with \\r."
)
def tail_command(file: str, lines: int, max_chars: int, follow: bool, all_rewrites: bool) -> None:
    """Show the last lines of FILE, whatever its size, even if it is one endless line."""
    try:
        end = os.stat(file).st_size
        shown = tail(file, lines, max_chars, rewrites="all" if all_rewrites else "last")
        click.echo(shown, nl=not follow and bool(shown) and not shown.endswith("\n"))
        if follow:
            _follow(file, end)
    except NotALogFileError as error:
        raise CliError(f"{file} is not a regular file", "name a log file") from error
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}", "check the path and who may read it") from error


def _follow(file: str, position: int) -> None:
    follower = Follower(file, position)
    try:
        while True:
            text = follower.read()
            click.echo(text, nl=False)
            if not text:
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        click.echo()
    finally:
        follower.close()
