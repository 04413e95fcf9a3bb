"""The group of all `mantaray` commands.

Each command lives in a module of its own that is imported only when the command is used, so a
missing dependency of one command does not break the others.
"""

from __future__ import annotations

import os
from importlib import import_module

import click

from mantaray.cli.output import VERSION, CliError, table
from mantaray.overlay import native_module
from mantaray.settings import SETTINGS

# name: (module, attribute, one line of help)
_COMMANDS = {
    "doctor": ("mantaray.cli.doctor", "doctor", "Show what is attached to the installed Ray."),
    "gc": ("mantaray.cli.gc", "gc_group", "Show the garbage collections that Ray asked for."),
    "logs": ("mantaray.cli.logs", "logs_group", "Remove old logs of this machine's nodes."),
    "relay": (
        "mantaray.cli.relay",
        "relay_command",
        "Run a relay between raylets and the GCS; show relays.",
    ),
    "refs": (
        "mantaray.cli.refs",
        "refs_group",
        "Show who holds an object; explore the reference-counting protocol.",
    ),
    "report": (
        "mantaray.cli.report",
        "report_command",
        "Write an HTML page about a running cluster.",
    ),
    "sim": ("mantaray.cli.sim", "sim_group", "Predict what a cluster will cost."),
    "spill": ("mantaray.cli.spill", "spill_group", "Show and clean spilled data."),
    "tail": (
        "mantaray.cli.tail",
        "tail_command",
        "Show the end of a log file, of any size and shape.",
    ),
    "wheel": ("mantaray.cli.wheel", "wheel_group", "Make and verify custom Ray wheels."),
}
# Commands that use the native module, which a damaged installation may lack.
_NEED_NATIVE = ("refs", "spill")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, none of them imported."""
        return sorted({*super().list_commands(ctx), *_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None when there is none of that name.

        Raises:
            CliError: something that the command needs is not installed.
        """
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, attribute, _ = _COMMANDS[cmd_name]
        if cmd_name in _NEED_NATIVE:
            _require_native(cmd_name)
        try:
            command = getattr(import_module(module), attribute)
        except ImportError as error:
            raise CliError(
                f"`mantaray {cmd_name}` cannot start: {error}",
                "install ray-mantaray again, with what this command needs: "
                "pip install --force-reinstall 'ray-mantaray[wheel]'",
            ) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from their one-line helps."""
        rows = []
        for name in self.list_commands(ctx):
            if name in _COMMANDS:
                rows.append((name, _COMMANDS[name][2]))
            elif (command := super().get_command(ctx, name)) is not None:
                rows.append((name, command.get_short_help_str(limit=80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _require_native(command: str) -> None:
    try:
        native_module.load()
    except native_module.NativeError as error:
        problem, _, hint = str(error).rpartition("; ")
        raise CliError(f"`mantaray {command}` cannot start: {problem}", hint) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="mantaray", message="%(prog)s %(version)s")
def main() -> None:
    """Patches that make an installed Ray keep its disk and its latency."""


@main.command("settings")
def show_settings() -> None:
    """List every setting, and the values of Ray's spilling knobs.

    Values from the system configuration of a cluster are not shown; they override all others.
    """
    rows = [
        (setting.name, setting.type, setting.describe_default(), setting.allowed, setting.doc)
        for setting in SETTINGS
    ]
    click.echo(table(("variable", "type", "default", "allowed", "meaning"), rows))
    click.echo()
    click.echo(_knobs_table())


def _knobs_table() -> str:
    from mantaray import knobs

    environ = knobs.as_set_by_users(os.environ)
    chosen = knobs.left_to_mantaray({}, environ)
    nodes = knobs.running_nodes()
    rows = []
    for knob in knobs.KNOBS:
        running = [node.get(knob.variable, "-") for node in nodes.values()]
        users = environ.get(knob.variable, "-")
        ours = knob.rule if knob in chosen else "-"
        rows.append((knob.variable, str(knob.rays_default), ours, users, *running, knob.doc))
    columns = [f"raylet {pid}" for pid in nodes]
    return table(("ray's knob", "ray's default", "mantaray's", "yours", *columns, "meaning"), rows)
