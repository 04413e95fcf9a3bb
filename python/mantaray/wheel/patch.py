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
# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_FILES = (
    "7ca9c10dd653ea681a95b75edb254b436a2097dd6b00399856370989d4b2c663",
    "4c14905253f06a8a28f625a807efaeb943e6cf2bfe55596e284d766c9d870ac4",
)


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
    ray_versions=">=2.48,<2.61",
    plain_since=None,
    enough_since=None,
    targets=(
        # The first up to 2.54 at least, the second from 2.56 at the latest.
        Target(_MODULE, "cli", ("119e13951af9fb2e", "284e69ae97552f3a"), _FILES),
    ),
    installers={_MODULE: _install},
)
register(PATCH)
