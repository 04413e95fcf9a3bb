"""`mantaray refs`: shows who holds an object, and explores random worlds of the protocol."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mantaray._native import sim
from mantaray.cli.output import CliError, table
from mantaray.refs import leaks as leaked
from mantaray.refs import paths, picture, tops
from mantaray.refs import why as holders
from mantaray.refs.cluster import ClusterError, Process, ask, starts

# How many worlds `--nightly` runs.
NIGHTLY_SEEDS = 1_000_000
SEEDS = 10_000
# With --time-s the time ends the run. No run reaches this number.
ENDLESS_SEEDS = 1 << 62


@click.group("refs")
def refs_group() -> None:
    """Show who holds an object; explore the reference-counting protocol."""


_ADDRESS = click.option(
    "--address",
    envvar="RAY_ADDRESS",
    metavar="IP:PORT",
    help="The cluster; by default RAY_ADDRESS, or the one that runs on this machine.",
)
_TIMEOUT = click.option(
    "--timeout-s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="How long each process may take to answer.",
)


@refs_group.command("why")
@click.argument("object_id")
@_ADDRESS
@_TIMEOUT
@click.option(
    "--path",
    "with_paths",
    is_flag=True,
    help="Show which variables of each Python process hold it.",
)
@click.option(
    "--path-timeout-s",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="How long each process may search with --path.",
)
@click.option(
    "--max-stop-ms",
    type=click.FloatRange(min=1),
    default=20.0,
    show_default=True,
    help="For how long a process may stop for --path. One that would stop longer is not searched.",
)
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a picture to this file as well. Needs Graphviz.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def why(
    ctx: click.Context,
    *,
    object_id: str,
    address: str | None,
    timeout_s: float,
    with_paths: bool,
    path_timeout_s: float,
    max_stop_ms: float,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Show who in a running cluster holds an object, and why it is not freed.

    OBJECT_ID is 56 hexadecimal digits, as `ref.hex()` and Ray's messages show it. The exit status is 1 if
    no process knows the object.

    With --path each process with local references searches a copy of itself. It stops only while it makes
    the copy. Mantaray must be attached in that process.
    """
    object_id = object_id.lower()
    if not re.fullmatch("[0-9a-f]{56}", object_id):
        raise CliError(
            f"{object_id!r} is not the id of an object",
            "an id has 56 hexadecimal digits: ref.hex()",
        )
    found = holders.explain(object_id, _ask(address, object_id, timeout_s))
    if with_paths:
        asked = [process for process, held in found.holders if held.local_refs]
        question = paths.Question(object_id, path_timeout_s, max_stop_ms)
        found = replace(found, paths=paths.find(_cluster(address), question, asked))
    click.echo(json.dumps(found.to_json()) if as_json else holders.text(found))
    if svg is not None:
        _draw(found, svg)
    if not found.holders:
        click.echo(
            "no process that answered knows it: it was freed, its owner ended, or it was never made",
            err=True,
        )
        ctx.exit(1)


def _draw(found: holders.Why, svg: Path) -> None:
    try:
        picture.write_svg(found, svg)
    except picture.NoGraphvizError as error:
        raise CliError(
            f"no picture: {error}",
            "install it: apt-get install graphviz, or conda install graphviz",
        ) from error
    except OSError as error:
        raise CliError(f"{svg} cannot be written: {error.strerror}", "name another file") from error


@refs_group.command("top")
@click.option(
    "--by",
    type=click.Choice(["size", "age", "holder", "line"]),
    default="size",
    show_default=True,
    help="The largest objects, the oldest, or sums by process or by the line that made them.",
)
@_ADDRESS
@_TIMEOUT
@click.option("-n", "limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def top(*, by: str, address: str | None, timeout_s: float, limit: int, as_json: bool) -> None:
    """Show the objects that take most of a running cluster, and who holds them.

    Ray does not record when an object was made. With --by age, objects are sorted by the start of the task
    that made them, and objects of one task by the order in which the task made them.
    """
    processes = _ask(address, None, timeout_s)
    if by in ("holder", "line"):
        sums = (tops.by_holder if by == "holder" else tops.by_line)(processes, limit)
        rows = [
            (f"{each.objects:,}", f"{each.size_bytes:,}", *_sum_name(each, by)) for each in sums
        ]
        names = ("used by",) if by == "holder" else ("processes", "made at")
        told = [each.to_json(by) for each in sums]
        click.echo(json.dumps(told) if as_json else table(("objects", "bytes", *names), rows))
    else:
        found = _listed(processes, by, address, timeout_s, limit)
        rows = [_listed_row(each, by) for each in found]
        after = ("made after",) if by == "age" else ()
        header = ("object", "bytes", *after, "holders", "owner or first holder", "made at")
        told = [each.to_json() for each in found]
        click.echo(json.dumps(told) if as_json else table(header, rows))
    _name_silent(processes)


def _listed(
    processes: list[Process], by: str, address: str | None, timeout_s: float, limit: int
) -> list[tops.Listed]:
    if by == "size":
        return tops.largest(processes, limit)
    try:
        began = starts(_cluster(address), timeout_s)
    except ClusterError as error:
        raise CliError(str(error), "allow more time with --timeout-s") from error
    return tops.oldest(processes, began, limit)


def _sum_name(each: tops.Sum, by: str) -> tuple[str, ...]:
    return (each.name,) if by == "holder" else (str(each.holders), each.name or "(not recorded)")


def _listed_row(each: tops.Listed, by: str) -> tuple[str, ...]:
    began = each.made_after_s
    when = "" if began is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))
    after = (when,) if by == "age" else ()
    holders = (str(len(each.holders)), str(each.holders[0]))
    return (each.object_id, f"{each.size_bytes:,}", *after, *holders, each.call_site)


def seconds(ctx: click.Context | None, param: click.Parameter | None, text: str) -> float:
    """Read a time such as 90s, 10m or 2h.

    Raises:
        click.BadParameter: the text is no such time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a time such as 90s, 10m or 2h", ctx, param)
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3_600}[match[2]]


@refs_group.command("leaks")
@click.option(
    "--older-than",
    "age_s",
    callback=seconds,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How old an object is at least, as 90s, 10m or 2h. The command takes this long.",
)
@_ADDRESS
@_TIMEOUT
@click.option("-n", "limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def leaks(
    *, age_s: float, address: str | None, timeout_s: float, limit: int, as_json: bool
) -> None:
    """Show objects that a single process has kept for long, by process and by the line that made them.

    Ray does not know how old an object is. So this command asks the cluster, waits, asks again, and shows
    the objects that both answers name. It also names the processes that did not answer.
    """
    before = _ask(address, None, timeout_s)
    click.echo(f"asked once; asking again after {age_s:g} s", err=True)
    time.sleep(age_s)
    after = _ask(address, None, timeout_s)
    found = leaked.find(before, after)[:limit]
    if as_json:
        click.echo(json.dumps([leak.to_json() for leak in found]))
    else:
        header = ("objects", "grown by", "bytes", "kept by", "made at", "one of them")
        click.echo(table(header, [_leak_row(leak) for leak in found]))
    _name_silent(after)


def _leak_row(leak: leaked.Leak) -> tuple[str, ...]:
    return (
        f"{leak.objects:,}",
        f"{leak.grown:+,}",
        f"{leak.size_bytes:,}",
        str(leak.holder),
        leak.call_site or "(not recorded)",
        leak.example,
    )


def _name_silent(processes: list[Process]) -> None:
    for process in processes:
        if process.problem is not None:
            click.echo(f"not asked: {process}: {process.problem}", err=True)


def _ask(address: str | None, object_id: str | None, timeout_s: float) -> list[Process]:
    try:
        return ask(_cluster(address), object_id, timeout_s)
    except (ClusterError, ConnectionError) as error:
        raise CliError(str(error), "name the cluster with --address IP:PORT") from error


def _cluster(address: str | None) -> str:
    """Return the address of the control plane of the cluster that a user means."""
    try:
        from ray._private.services import canonicalize_bootstrap_address_or_die
    except ImportError as error:
        raise CliError("no Ray is installed here", "run it where the cluster's Ray is") from error
    # If there is no cluster, this call prints a sentence of Ray's and ends the process.
    found: str = canonicalize_bootstrap_address_or_die(address)
    return found


@refs_group.command("bugs")
def bugs() -> None:
    """List the protocol bugs that `explore --bug` can plant."""
    click.echo(table(("bug", "what it is"), sorted(sim.BUGS.items())))


@refs_group.command("explore")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=None,
    show_default=f"{SEEDS:,}; as many as there is time for with --time-s",
    help="How many worlds to run.",
)
@click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--nightly", is_flag=True, help=f"{NIGHTLY_SEEDS:,} seeds instead.")
@click.option(
    "--processes",
    type=click.IntRange(2, sim.MAX_PROCESSES),
    default=4,
    show_default=True,
    help="Processes in each world.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Steps of each world's program.",
)
@click.option("--time-s", type=click.FloatRange(min=0), help="Stop after this many seconds.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="one per core",
)
@click.option("--bug", default="none", metavar="NAME", help="Plant a protocol bug; see `bugs`.")
@click.option(
    "--replay", "replay_seed", type=click.IntRange(min=0), metavar="SEED", help="Run one world."
)
@click.pass_context
def explore(
    ctx: click.Context,
    *,
    seeds: int | None,
    first_seed: int,
    nightly: bool,
    processes: int,
    steps: int,
    time_s: float | None,
    threads: int,
    bug: str,
    replay_seed: int | None,
) -> None:
    """Run random worlds until one breaks a promise of the protocol.

    If a world breaks a promise, its program is shortened and printed, as a trace and as a Mermaid sequence
    diagram, and the exit status is 1. The same seed, processes and steps give the same world.
    """
    if bug != "none" and bug not in sim.BUGS:
        raise CliError(f"no bug is named {bug!r}", "list them with: mantaray refs bugs")
    world: dict[str, Any] = {"processes": processes, "steps": steps, "bug": bug}
    if replay_seed is not None:
        ctx.exit(_replay(replay_seed, world))
    progress = _Progress(time_s)
    explored = sim.explore(
        first_seed=first_seed,
        seeds=_worlds(seeds, nightly, time_s),
        threads=threads,
        on_progress=progress,
        **world,
    )
    click.echo(progress.summary(explored))
    if explored["failing_seed"] is not None:
        ctx.exit(_replay(explored["failing_seed"], world))


def _worlds(seeds: int | None, nightly: bool, time_s: float | None) -> int:
    """Return how many worlds to run at most."""
    if nightly:
        return NIGHTLY_SEEDS
    return seeds or (SEEDS if time_s is None else ENDLESS_SEEDS)


class _Progress:
    """Prints the progress once per second, and tells the explorer when the time is up."""

    def __init__(self, time_s: float | None) -> None:
        self._started = time.monotonic()
        self._said = self._started
        self._time_s = time_s

    def __call__(self, worlds: int) -> bool:
        now = time.monotonic()
        took = now - self._started
        if now - self._said >= 1:
            self._said = now
            click.echo(f"{worlds:,} worlds, {worlds / took:,.0f} a second", err=True)
        return self._time_s is None or took < self._time_s

    def summary(self, explored: dict[str, Any]) -> str:
        took = time.monotonic() - self._started
        worlds = explored["worlds"]
        found = "a violation" if explored["failing_seed"] is not None else "no violation"
        return (
            f"{worlds:,} worlds, {explored['events']:,} events, {took:.1f} s, "
            f"{worlds / took:,.0f} worlds a second: {found}"
        )


def _replay(seed: int, world: dict[str, Any]) -> int:
    """Run one world, print what happens in it, and return the exit status."""
    said = sim.replay(seed, **world)
    shape = f"{said['processes']} processes, {said['steps']} steps, {said['events']} events"
    click.echo(f"seed {seed}: {shape}\n\n{said['trace']}")
    if said["violation"] is None:
        click.echo("no violation")
        return 0
    options = " ".join(f"--{name} {value}" for name, value in world.items() if value != "none")
    click.echo(f"violation: {said['violation']}: {said['what']}\n\n{said['diagram']}")
    click.echo(f"again: mantaray refs explore --replay {seed} {options}")
    return 1
