"""`mantaray spill`: what the nodes of this machine have on disk, and what dead ones left behind."""

from __future__ import annotations

import glob
import json
from dataclasses import asdict

import click

from mantaray.cli.output import table
from mantaray.spill import leftovers
from mantaray.spill.stat import stat_directory

_DIRECTORY = click.option(
    "--dir",
    "directories",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="A spill directory; Ray's session directories by default. May be given again.",
)


def _chosen(directories: tuple[str, ...]) -> list[str]:
    return list(directories) or sorted(glob.glob("/tmp/ray/session_*"))


@click.group("spill")
def spill_group() -> None:
    """Show and clean spilled data on this machine."""


@spill_group.command("stat")
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stat(directories: tuple[str, ...], as_json: bool) -> None:
    """Show segments, live bytes and disk bytes of each node's spill directory."""
    found = [stat_directory(path) for path in leftovers.node_directories(_chosen(directories))]
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
        return
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
    click.echo(table(header, rows))


@spill_group.command("clean")
@_DIRECTORY
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
def clean(directories: tuple[str, ...], dry_run: bool) -> None:
    """Remove spill directories of raylets that no longer live on this machine."""
    chosen = _chosen(directories)
    found = leftovers.survey(chosen)
    removed = set() if dry_run else set(leftovers.remove(chosen))
    verdicts = []
    for one in found:
        verdict = "removed" if one.path in removed else "would remove" if one.left_over else "keep"
        verdicts.append((verdict, f"{one.disk_bytes:,}", one.why, one.path))
    click.echo(table(("verdict", "disk bytes", "why", "path"), verdicts))
