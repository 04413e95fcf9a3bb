"""`mantaray refs`: who holds an object in a cluster; random worlds of the protocol, under every fault."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import click

from mantaray._native import sim
from mantaray.cli.output import CliError, table
from mantaray.refs import leaks as leaked
from mantaray.refs import why as holders
from mantaray.refs.cluster import ClusterError, Process, ask

# What a run at night does when nothing else is said.
NIGHTLY_SEEDS = 1_000_000
SEEDS = 10_000
# More than any time is enough for.
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def why(
    ctx: click.Context, *, object_id: str, address: str | None, timeout_s: float, as_json: bool
) -> None:
    """Show who in a running cluster holds an object, and why it is not freed.

    OBJECT_ID is 56 hexadecimal digits, as `ref.hex()` and Ray's messages show it. The exit status is 1 if
    no process knows the object.
    """
    object_id = object_id.lower()
    if not re.fullmatch("[0-9a-f]{56}", object_id):
        raise CliError(
            f"{object_id!r} is not the id of an object",
            "an id has 56 hexadecimal digits: ref.hex()",
        )
    found = holders.explain(object_id, _ask(address, object_id, timeout_s))
    click.echo(json.dumps(found.to_json()) if as_json else holders.text(found))
    if not found.holders:
        click.echo(
            "no process that answered knows it: it was freed, its owner ended, or it was never made",
            err=True,
        )
        ctx.exit(1)


@refs_group.command("top")
@_ADDRESS
@_TIMEOUT
@click.option("-n", "limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def top(*, address: str | None, timeout_s: float, limit: int, as_json: bool) -> None:
    """Show the largest objects that processes of a running cluster hold, and who holds each."""
    processes = _ask(address, None, timeout_s)
    found = holders.largest(processes, limit)
    if as_json:
        rows = [
            {
                "object_id": each.object_id,
                "size_bytes": each.size_bytes,
                "holders": [str(process) for process in each.holders],
                "call_site": each.call_site,
            }
            for each in found
        ]
        click.echo(json.dumps(rows))
    else:
        header = ("object", "bytes", "holders", "owner or first holder", "made at")
        click.echo(table(header, [_large_row(each) for each in found]))
    _name_silent(processes)


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

    Ray does not know how old an object is. So this asks the cluster, waits, asks again, and shows what both
    answers name. Cluster processes that did not answer are named.
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


def _large_row(each: holders.Large) -> tuple[str, ...]:
    number = str(len(each.holders))
    return (each.object_id, f"{each.size_bytes:,}", number, str(each.holders[0]), each.call_site)


def _ask(address: str | None, object_id: str | None, timeout_s: float) -> list[Process]:
    try:
        from ray._private.services import canonicalize_bootstrap_address_or_die

        # Ends the process with a sentence of Ray's own when there is no cluster.
        return ask(canonicalize_bootstrap_address_or_die(address), object_id, timeout_s)
    except ImportError as error:
        raise CliError("no Ray is installed here", "run it where the cluster's Ray is") from error
    except (ClusterError, ConnectionError) as error:
        raise CliError(str(error), "name the cluster with --address IP:PORT") from error


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
    help="How many worlds.",
)
@click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--nightly", is_flag=True, help=f"{NIGHTLY_SEEDS:,} seeds instead.")
@click.option(
    "--processes",
    type=click.IntRange(2, sim.MAX_PROCESSES),
    default=4,
    show_default=True,
    help="In each world.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="In each world's program.",
)
@click.option("--time-s", type=click.FloatRange(min=0), help="Stop after that long.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="one a core",
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

    The program of a world that does is made short and printed, as a trace and as a Mermaid sequence
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
    """Says how it goes, once a second, and when the time is up."""

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
