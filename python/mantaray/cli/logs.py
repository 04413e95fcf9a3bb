"""`mantaray logs`: old log files of this machine's nodes, and their removal."""

from __future__ import annotations

import time

import click

from mantaray.cli.output import CliError, table
from mantaray.logs.retention import Limits, Verdict, clean, session_directories
from mantaray.logs.retention_settings import read_limits
from mantaray.settings import LOG_RETENTION_AGE_S, LOG_RETENTION_BYTES, SettingError


@click.group("logs")
def logs_group() -> None:
    """Remove old logs of the nodes of this machine."""


@logs_group.command("clean")
@click.option(
    "--dir",
    "directories",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="A log directory; by default those of all sessions below /tmp/ray. May be given again.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=0),
    help=f"How much all logs may hold; by default {LOG_RETENTION_BYTES.name}.",
)
@click.option(
    "--max-age-s",
    type=click.FloatRange(min=0),
    help=f"How long after its last change a log stays; by default {LOG_RETENTION_AGE_S.name}.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
def clean_command(
    directories: tuple[str, ...], max_bytes: int | None, max_age_s: float | None, dry_run: bool
) -> None:
    """Remove the oldest logs that are past a limit. A log that a process has open stays."""
    verdicts = clean(
        directories or session_directories(), _limits(max_bytes, max_age_s), dry_run=dry_run
    )
    rows = [_row(verdict, dry_run) for verdict in verdicts]
    click.echo(table(("verdict", "disk bytes", "age s", "why", "path"), rows))


def _limits(max_bytes: int | None, max_age_s: float | None) -> Limits:
    try:
        limits = read_limits()
    except SettingError as error:
        raise CliError(str(error), "`mantaray settings` lists every setting") from error
    if max_bytes is not None or max_age_s is not None:
        limits = Limits(max_bytes, max_age_s)
    if not limits.any:
        raise CliError(
            "nothing says how much may stay",
            f"give --max-bytes or --max-age-s, or set {LOG_RETENTION_BYTES.name}",
        )
    return limits


def _row(verdict: Verdict, dry_run: bool) -> tuple[str, ...]:
    what = ("would remove" if dry_run else "removed") if verdict.removed else "keep"
    age_s = time.time() - verdict.log.changed_at_s
    return (what, f"{verdict.log.size_bytes:,}", f"{age_s:.0f}", verdict.why, verdict.log.path)
