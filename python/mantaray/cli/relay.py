"""`mantaray relay`: runs the relay's program, or shows the state of relays as a table."""

from __future__ import annotations

import os

import click

from mantaray.cli.output import CliError, table
from mantaray.syncer import RelayError, fetch_status, relay_program
from mantaray.syncer.tree import TreeLine, relay_tree

DEFAULT_ADMIN = "127.0.0.1:6380"
_COLUMNS = ("relay or node", "address", "nodes", "lag", "behind", "connected", "dialect")


@click.command(
    "relay",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def relay_command(arguments: tuple[str, ...]) -> None:
    """Run a relay between raylets and the GCS, or show the state of relays (`status`)."""
    if arguments[:1] == ("status",):
        status_command.main(
            list(arguments[1:]), prog_name="mantaray relay status", standalone_mode=False
        )
        return
    try:
        program = relay_program()
    except RelayError as error:
        raise CliError(
            str(error), "install Mantaray from a wheel, or build it with Bazel"
        ) from error
    # The relay replaces this process, so signals reach it directly and the exit status is its own.
    os.execv(program, [str(program), *arguments])


@click.command("status", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("admin", nargs=-1, metavar="[HOST:PORT]...")
def status_command(admin: tuple[str, ...]) -> None:
    """Show the tree below the relays with these admin addresses (127.0.0.1:6380), and their lag."""
    rows: list[tuple[str, ...]] = []
    for address in admin or (DEFAULT_ADMIN,):
        try:
            status = fetch_status(address)
        except (OSError, ValueError) as error:
            raise CliError(
                f"no relay answers at {address}: {error}",
                "name the address that the relay was given with --admin-listen",
            ) from error
        rows += map(_row, relay_tree(status, address))
    click.echo(table(_COLUMNS, rows))


def _row(line: TreeLine) -> tuple[str, ...]:
    is_asked = line.connected_ms is None
    return (
        "  " * line.depth + line.name,
        line.address,
        str(line.nodes),
        f"{line.behind_ms} ms",
        str(line.behind),
        "" if is_asked else f"{(line.connected_ms or 0) / 1000:.0f} s",
        line.dialect,
    )
