"""`mantaray refs`: random worlds of the reference-counting protocol, under every fault a network has."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from mantaray._native import sim
from mantaray.cli.output import CliError, table

# What a run at night does when nothing else is said.
NIGHTLY_SEEDS = 1_000_000
SEEDS = 10_000
# More than any time is enough for.
ENDLESS_SEEDS = 1 << 62


@click.group("refs")
def refs_group() -> None:
    """Explore the reference-counting protocol."""


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
