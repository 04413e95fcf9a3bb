"""`mantaray gc`: the garbage collections that Ray asked the processes of this machine for."""

from __future__ import annotations

import json

import click

from mantaray.cli.output import table
from mantaray.gc.stat import ProcessStat, running_sessions, stat_sessions

_TITLE_CHARS = 40


@click.group("gc")
def gc_group() -> None:
    """Show the garbage collections that Ray asked for."""


@gc_group.command("stat")
@click.option(
    "--dir",
    "directories",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="A session directory; by default those of the running nodes. May be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stat(directories: tuple[str, ...], as_json: bool) -> None:
    """Show pauses, collections and triggers of each process on this machine that Ray has asked."""
    sessions = directories or running_sessions()
    found = stat_sessions(sessions)
    if not sessions:
        click.echo("no node runs on this machine; name a session directory with --dir", err=True)
    elif not found:
        click.echo("Ray has asked no process of this machine so far", err=True)
    click.echo(json.dumps([one.to_json() for one in found]) if as_json else _stat_table(found))


def _stat_table(found: list[ProcessStat]) -> str:
    header = (
        "pid",
        "triggers",
        "coalesced",
        "young",
        "searches",
        "full",
        "longest young ms",
        "longest search ms",
        "longest full ms",
        "objects freed",
        "released",
        "state",
        "process",
    )
    return table(header, [_row(one) for one in found])


def _row(one: ProcessStat) -> tuple[str, ...]:
    told = one.told
    counts = [told["triggers"], told["coalesced"]]
    counts += [told["young"], told["searches"], told["full"]]
    kinds = ("young", "search", "full")
    pauses = [f"{told[f'longest_{kind}_s'] * 1_000:.1f}" for kind in kinds]
    numbers = [f"{count:,}" for count in counts]
    freed = [f"{told['objects']:,}", f"{told['released']:,}"]
    return (str(one.pid), *numbers, *pauses, *freed, told["state"], one.title[:_TITLE_CHARS])
