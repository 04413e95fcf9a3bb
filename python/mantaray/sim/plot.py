"""The plan of a cluster as a picture: staleness and CPU over windows and relays. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mantaray.sim.sync import Costs, Plan, predict


class PlotError(RuntimeError):
    """matplotlib is not installed."""


def plot_plan(
    path: Path, plan: Plan, costs: Costs, windows_ms: Sequence[float], relays: Sequence[int]
) -> None:
    """Write a PNG with two panels: p99 staleness and the GCS's and a relay's CPU, a line for each window.

    Args:
        path: of the file to write.
        plan: the cluster; its window and number of relays are those of the mark in the picture.
        costs: of single steps.
        windows_ms: to draw a line for, in milliseconds.
        relays: the points of a line.

    Raises:
        PlotError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise PlotError("the plot needs matplotlib, which is not installed") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (staleness, cpu) = pyplot.subplots(1, 2, figsize=(13, 4))
    for window_ms in windows_ms:
        found = [predict(replace(plan, relays=n, window_ms=window_ms), costs) for n in relays]
        label = f"{window_ms:g} ms window"
        staleness.plot(relays, [one.staleness_p99_ms for one in found], marker="o", label=label)
        cpu.plot(relays, [one.relay_cores for one in found], marker="o", label=f"a relay, {label}")
    gcs = [predict(replace(plan, relays=n), costs).gcs_cores for n in relays]
    cpu.plot(relays, gcs, color="black", linewidth=2.5, label="the GCS")
    direct = predict(replace(plan, relays=0), costs)
    staleness.axhline(direct.staleness_p99_ms, color="black", linestyle="--", label="direct")
    cpu.axhline(1, color="grey", linestyle=":", label="one core")
    staleness.set(title="p99 staleness, ms", xlabel="relays")
    cpu.set(title="CPU, cores", xlabel="relays")
    for panel in (staleness, cpu):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(list(relays), [str(n) for n in relays])
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.suptitle(f"{plan.nodes} nodes, {plan.hz:g} updates a second each (predicted)")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
