"""`mantaray spill`: shows what the nodes of this machine have on disk, and removes what dead nodes left."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable

import click

from mantaray.cli.output import CliError, table
from mantaray.spill import leftovers
from mantaray.spill.stat import SpillStat, running_spill_directories, stat_directory

_SESSIONS = "/tmp/ray/session_*"


def _directory_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--dir",
        "directories",
        multiple=True,
        type=click.Path(exists=True, file_okay=False),
        help=f"A spill directory; by default {default}. May be given again.",
    )


def _say_if_none(found: object) -> None:
    if not found:
        click.echo("no node's spill directory found; name one with --dir", err=True)


@click.group("spill")
def spill_group() -> None:
    """Show and clean spilled data on this machine."""


@spill_group.command("stat")
@_directory_option("those of the running nodes")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stat(directories: tuple[str, ...], as_json: bool) -> None:
    """Show segments, live bytes and disk bytes of each node's spill directory."""
    paths = leftovers.node_directories(directories or running_spill_directories())
    if not directories:
        # Dead nodes may have left directories beside those of the running nodes.
        paths = [path for path in paths if not leftovers.judge(path)[0]]
    found = [stat_directory(path) for path in paths]
    _say_if_none(found)
    click.echo(json.dumps([one.to_json() for one in found]) if as_json else _stat_table(found))


def _stat_table(found: list[SpillStat]) -> str:
    header = ("segments", "objects", "live bytes", "disk bytes", "amplification", "damaged", "path")
    rows = [
        (
            str(one.segments),
            str(one.objects),
            f"{one.live_bytes:,}",
            f"{one.disk_bytes:,}",
            f"{one.amplification:.2f}",
            str(one.damaged),
            one.path,
        )
        for one in found
    ]
    return table(header, rows)


@spill_group.command("clean")
@_directory_option("Ray's session directories and those of the running nodes")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
def clean(directories: tuple[str, ...], dry_run: bool) -> None:
    """Remove spill directories of raylets that no longer live on this machine."""
    chosen = directories or (*glob.glob(_SESSIONS), *running_spill_directories())
    found = leftovers.survey(chosen)
    removed = set() if dry_run else set(leftovers.remove(chosen))
    verdicts = []
    for one in found:
        if not one.left_over:
            verdict = "keep"
        elif dry_run:
            verdict = "would remove"
        else:
            verdict = "removed" if one.path in removed else "not removed"
        verdicts.append((verdict, f"{one.disk_bytes:,}", one.why, one.path))
    _say_if_none(found)
    click.echo(table(("verdict", "disk bytes", "why", "path"), verdicts))
    failed = [path for verdict, _, _, path in verdicts if verdict == "not removed"]
    if failed:
        raise CliError(
            f"{len(failed)} left-over directories could not be removed, the first is {failed[0]}",
            "run this as the user that Ray ran as, or as root",
        )
