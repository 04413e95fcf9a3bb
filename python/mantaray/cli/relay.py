"""`mantaray relay`: the relay's program, and how relays stand as a table."""

from __future__ import annotations

import os

import click

from mantaray.cli.output import CliError, table
from mantaray.syncer import RelayError, RelayStatus, StreamStatus, fetch_status, relay_program

DEFAULT_ADMIN = "127.0.0.1:6380"
_MAX_DEPTH = 16
_COLUMNS = ("relay or node", "address", "nodes", "lag", "behind", "connected", "dialect")


@click.command(
    "relay",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def relay_command(arguments: tuple[str, ...]) -> None:
    """Run a relay between raylets and the GCS, or show how relays stand (`status`)."""
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
    # Nothing of Python stays: signals and the exit status are the relay's own.
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
        rows += tree_rows(status, address)
    click.echo(table(_COLUMNS, rows))


def tree_rows(status: RelayStatus, address: str, depth: int = 0) -> list[tuple[str, ...]]:
    """Return a row for the relay and, indented, one for each of its streams and what is below.

    A relay further down is asked itself where it told its admin address and answers there.

    Args:
        status: of the relay at the top.
        address: what to call it.
        depth: how far to indent.
    """
    if status.upstream_connected:
        problem = ""
    else:
        problem = (
            f" (not connected{f': {status.upstream_problem}' if status.upstream_problem else ''})"
        )
    name = f"{'  ' * depth}relay {status.relay_id} to {status.upstream}{problem}"
    # The slowest of its streams, the one to the upstream too.
    lag_ms = max((stream.behind_ms for stream in status.streams), default=0)
    behind = sum(stream.behind for stream in status.streams)
    rows: list[tuple[str, ...]] = [
        (name, address, str(status.nodes), _ms(lag_ms), str(behind), "", "")
    ]
    for stream in sorted(status.downstream, key=lambda stream: (stream.relay_id, stream.node_id)):
        rows.append(_stream_row(stream, depth + 1))
        if stream.relay_id and stream.admin and depth < _MAX_DEPTH:
            rows += _below(stream, depth + 1)
    return rows


def _below(stream: StreamStatus, depth: int) -> list[tuple[str, ...]]:
    try:
        status = fetch_status(stream.admin)
    except (OSError, ValueError):
        return []
    # An address of a loopback may be that of another relay.
    return tree_rows(status, stream.admin, depth)[1:] if status.relay_id == stream.relay_id else []


def _stream_row(stream: StreamStatus, depth: int) -> tuple[str, ...]:
    kind = f"relay {stream.relay_id}" if stream.relay_id else f"node {stream.node_id[:16]}"
    return (
        "  " * depth + kind,
        stream.address.partition(":")[2] or stream.address,
        str(stream.nodes),
        _ms(stream.behind_ms),
        str(stream.behind),
        f"{stream.connected_ms / 1000:.0f} s",
        stream.dialect,
    )


def _ms(value: int) -> str:
    return f"{value} ms"
