"""`mantaray wheel`: make a custom Ray wheel, or verify one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from mantaray.cli.output import CliError
from mantaray.wheel import Verification, WheelError, build_wheel, verify_wheel

_FILE = click.Path(path_type=Path)


def _say(words: str) -> None:
    click.echo(f"mantaray: {words}", err=True)


@click.group("wheel", invoke_without_command=True)
@click.option("--ray", "ray_version", metavar="VERSION", help="The Ray release, as 2.60.0.")
@click.option(
    "--from",
    "source",
    type=_FILE,
    metavar="FILE",
    help="The official wheel; left out, pip downloads it.",
)
@click.option(
    "-o",
    "--out-dir",
    type=_FILE,
    metavar="DIR",
    help="Where to put the wheel; made when missing.  [default: dist]",
)
@click.option(
    "--allow-refused",
    is_flag=True,
    help="Make the wheel even if patches would be refused on this Ray.",
)
@click.option("--without-relay", is_flag=True, help="Leave the relay out, even if it is installed.")
@click.pass_context
def wheel_group(
    ctx: click.Context,
    ray_version: str | None,
    source: Path | None,
    out_dir: Path | None,
    allow_refused: bool,
    without_relay: bool,
) -> None:
    """Make a custom Ray wheel: the official one for this interpreter, with Mantaray inside.

    Prints the path of the wheel.
    """
    if ctx.invoked_subcommand is not None:
        if ray_version or source or out_dir or allow_refused or without_relay:
            raise click.UsageError(f"{ctx.invoked_subcommand} takes its options behind its name")
        return
    try:
        wheel = build_wheel(
            out_dir or Path("dist"),
            ray_version=ray_version,
            source=source,
            allow_refused=allow_refused,
            relay=not without_relay,
            say=_say,
        )
    except WheelError as error:
        raise CliError(str(error), error.hint) from error
    click.echo(wheel)


@wheel_group.command("verify", short_help="Check a custom wheel.")
@click.argument("wheel", type=_FILE, metavar="WHEEL")
@click.option(
    "--against",
    type=_FILE,
    metavar="OFFICIAL",
    help="The official wheel to compare with. Without it only upstream's files are checked, by the RECORD "
    "that WHEEL itself keeps.",
)
@click.option(
    "--mantaray",
    "release",
    type=_FILE,
    metavar="WHEEL",
    help="The ray-mantaray wheel to compare with, beside --against; left out, pip downloads it.",
)
@click.option(
    "--relay",
    type=_FILE,
    metavar="WHEEL",
    help="The ray-mantaray-relay wheel, if WHEEL holds the relay of that one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    wheel: Path, against: Path | None, release: Path | None, relay: Path | None, as_json: bool
) -> None:
    """Show that a custom wheel is what `mantaray wheel` makes, and say where it is not.

    With --against every file and every line of metadata is either upstream's or, byte for byte, that of
    the Mantaray release that the wheel names.

    The exit status is 0 only if nothing is wrong.
    """
    if against is None and (release is not None or relay is not None):
        raise click.UsageError("--mantaray and --relay go with --against, the official wheel")
    try:
        found = verify_wheel(wheel, against, release, relay)
    except WheelError as error:
        raise CliError(str(error), error.hint) from error
    if as_json:
        click.echo(json.dumps({"ok": found.ok, **dataclasses.asdict(found)}, indent=2))
    else:
        click.echo(_as_text(found))
    if not found.ok:
        wrong = [found.changed, found.missing, found.unexpected, found.problems]
        raise CliError(
            f"{found.wheel} is not what `mantaray wheel` made of Ray {found.ray_version}: "
            f"{sum(map(len, wrong))} finding(s)",
            "do not install it; make it again with `mantaray wheel`",
        )


def _as_text(found: Verification) -> str:
    dist_info = found.rewritten[0].split("/")[0] + "/" if found.rewritten else ""
    rewritten = ", ".join(name.removeprefix(dist_info) for name in found.rewritten)
    lines = [
        f"{found.wheel}: Ray {found.ray_version} with Mantaray {found.mantaray_version}",
        f"compared with {found.reference}",
        f"{found.unchanged:>6} upstream files, unchanged",
        f"{len(found.rewritten):>6} metadata files rewritten, as expected: {rewritten}",
        f"{len(found.added):>6} files added by Mantaray",
    ]
    lines += [f"CHANGED     {name}" for name in found.changed]
    lines += [f"MISSING     {name}" for name in found.missing]
    lines += [f"UNEXPECTED  {name}" for name in found.unexpected]
    lines += [f"WRONG       {problem}" for problem in found.problems]
    lines.append("ok" if found.ok else "not ok")
    return "\n".join(lines)
