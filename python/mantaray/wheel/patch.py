"""The patch of custom wheels: `ray --version` still prints the version of Ray alone.

The `ray` command reads its version from the installed metadata. The metadata of a custom wheel says
2.60.0+mantaray.X, so that pip can distinguish it from the official wheel. Scripts that compare the output
of the command between nodes would take the two for different releases, although `ray.__version__`, which
Ray itself compares, is the same. So the command prints `ray.__version__`.
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
    """Handle the option `--version` with the version in Ray's code.

    Args:
        ctx: the context of the command that is parsed.
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
