"""The patch of custom wheels: `ray --version` goes on to print the version of Ray alone.

The `ray` command asks the installed metadata for its version, and a custom wheel's metadata says
2.60.0+mantaray.X, so that pip tells it from the official one. Scripts that compare what the command
prints between nodes would take the two for different Rays, although `ray.__version__`, which Ray
itself compares, is the same. So the command prints that one.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from mantaray.overlay import Patch, Target, register

if TYPE_CHECKING:
    import click

    from mantaray.overlay import Installation

_MODULE = "ray.scripts.scripts"


def print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Do what the option `--version` does, with the version that Ray's code has.

    Args:
        ctx: of the command that is parsed.
        parameter: the option.
        value: whether it was given.
    """
    import click
    import ray

    if value and not ctx.resilient_parsing:
        click.echo(f"{ctx.find_root().info_name}, version {ray.__version__}")
        ctx.exit()


def _install(module: ModuleType, installation: Installation) -> None:
    (option,) = (option for option in module.cli.params if "--version" in option.opts)
    installation.replace(option, "callback", print_version)


PATCH = Patch(
    name="version",
    summary="`ray --version` prints Ray's own version in a custom wheel too",
    plain_since=None,
    enough_since=None,
    targets=(Target(_MODULE, "cli"),),
    installers={_MODULE: _install},
)
register(PATCH)
