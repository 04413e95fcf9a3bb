"""`mantaray sim`: predicts what a cluster will cost, before it exists."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import click

from mantaray.cli.output import CliError, table
from mantaray.sim import COSTS, Plan, Prediction, predict

_WINDOWS_MS = (10, 25, 50, 100, 200, 500)
_RELAYS = (1, 2, 4, 8, 16, 32, 64)
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.group("sim")
def sim_group() -> None:
    """Predict what a cluster will cost."""


@sim_group.command("sync")
@click.option("--nodes", required=True, type=click.IntRange(min=2), help="How many nodes.")
@click.option(
    "--hz", default=1.0, show_default=True, type=_POSITIVE, help="Updates of each node per second."
)
@click.option("--relays", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--window-ms", default=25.0, show_default=True, type=click.FloatRange(min=0))
@click.option(
    "--ray", "generation", default="2.60", show_default=True, type=click.Choice(sorted(COSTS))
)
@click.option("--gcs-write-us", type=_POSITIVE, help="CPU time of a write of the GCS.")
@click.option("--gcs-message-us", type=_POSITIVE, help="CPU time of each message in such a write.")
@click.option(
    "--gcs-update-us", type=_POSITIVE, help="CPU time of an update that the GCS receives."
)
@click.option("--relay-write-us", type=_POSITIVE, help="CPU time of a write of a relay.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the predictions over windows and numbers of relays into a PNG file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sync_command(
    nodes: int,
    hz: float,
    relays: int,
    window_ms: float,
    generation: str,
    gcs_write_us: float | None,
    gcs_message_us: float | None,
    gcs_update_us: float | None,
    relay_write_us: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Predict messages, CPU and staleness of resource-view sync, without relays and with them."""
    measured = {
        "gcs_write_s": gcs_write_us,
        "gcs_out_s": gcs_message_us,
        "gcs_in_s": gcs_update_us,
        "relay_write_s": relay_write_us,
    }
    given = {name: value / 1e6 for name, value in measured.items() if value is not None}
    costs = replace(COSTS[generation], **given)  # type: ignore[arg-type]
    plans = (
        [Plan(nodes, hz, 0, 0), Plan(nodes, hz, relays, window_ms)]
        if relays
        else [Plan(nodes, hz, 0, 0)]
    )
    try:
        predictions = [(plan, predict(plan, costs)) for plan in plans]
    except ValueError as error:
        raise CliError(str(error), "change --nodes or --relays") from error
    if as_json:
        click.echo(json.dumps([{**asdict(plan), **asdict(found)} for plan, found in predictions]))
    else:
        click.echo(_table(predictions))
    if plot is not None:
        from mantaray.sim.plot import PlotError, plot_plan

        try:
            plot_plan(plot, plans[-1], costs, _WINDOWS_MS, [n for n in _RELAYS if n <= nodes])
        except PlotError as error:
            raise CliError(str(error), "pip install 'ray-mantaray[plot]'") from error
        except OSError as error:
            raise CliError(
                f"{plot}: {error.strerror}", "name a file that can be written"
            ) from error
        click.echo(f"plot: {plot}", err=True)


def _table(predictions: list[tuple[Plan, Prediction]]) -> str:
    rows = [
        [
            f"{plan.relays} relays, {plan.window_ms:g} ms" if plan.relays else "direct",
            f"{found.messages_per_s:,.0f}",
            f"{found.gcs_cores:.2f}" + (" (saturated)" if found.saturated else ""),
            f"{found.gcs_bytes_per_s / 1e6:.1f}",
            _ms(found.staleness_p50_ms),
            _ms(found.staleness_p99_ms),
            f"{found.relay_cores:.2f}" if plan.relays else "-",
        ]
        for plan, found in predictions
    ]
    header = ["", "messages/s", "GCS cores", "MB/s", "p50 ms", "p99 ms", "cores a relay"]
    return table(header, rows)


def _ms(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "never"
