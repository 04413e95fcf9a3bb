"""The plan of a cluster as a picture: staleness and CPU over windows and relays. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mantaray.sim.sync import Costs, Plan, Prediction, predict

# As in the other pictures: stock Ray is red, relays are blue.
_OF_STOCK, _OF_RELAYS = "tab:red", "tab:blue"


class PlotError(RuntimeError):
    """matplotlib is not installed."""


def plot_plan(
    path: Path, plan: Plan, costs: Costs, windows_ms: Sequence[float], relays: Sequence[int]
) -> None:
    """Write a PNG: p99 staleness with a line for each window, and the CPU of the GCS and of a relay.

    Args:
        path: of the file to write.
        plan: the cluster. The CPU of a relay is drawn for the plan's window.
        costs: of single steps.
        windows_ms: the windows that get a line, in milliseconds.
        relays: the numbers of relays, which are the points of a line.

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

    figure, (staleness, cpu) = pyplot.subplots(2, 1, figsize=(7.5, 9), constrained_layout=True)
    direct = predict(replace(plan, relays=0), costs)
    for panel in (staleness, cpu):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
    _draw_staleness(staleness, plan, costs, windows_ms, relays, direct)
    _draw_cpu(cpu, plan, costs, relays)
    for panel in (staleness, cpu):
        panel.set_xticks(list(relays), [str(n) for n in relays])
        # Room for the names at the ends of the lines.
        panel.set_xlim(relays[0] * 0.9, relays[-1] * 6)
        panel.set_xlabel(f"relays ({plan.nodes:,} nodes, updates of each per second: {plan.hz:g})")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw_staleness(
    panel: Any,
    plan: Plan,
    costs: Costs,
    windows_ms: Sequence[float],
    relays: Sequence[int],
    direct: Prediction,
) -> None:
    panel.set_title("Predicted age of views, p99 in ms: about one window behind relays", loc="left")
    for number, window_ms in enumerate(windows_ms, 1):
        found = [predict(replace(plan, relays=n, window_ms=window_ms), costs) for n in relays]
        ages_ms = [each.staleness_p99_ms for each in found]
        shade = 0.35 + 0.65 * number / len(windows_ms)
        panel.plot(relays, ages_ms, color=_OF_RELAYS, alpha=shade, linewidth=2)
        _name(panel, relays[-1], ages_ms[-1], f"window {window_ms:g} ms", _OF_RELAYS)
    panel.axhline(direct.staleness_p99_ms, color=_OF_STOCK, linestyle="--")
    words = "no relay"
    if direct.saturated:
        # The model predicts that the GCS saturates, and not how old views then get.
        words = "no relay: the GCS is saturated, so views are older"
        panel.annotate(
            "",
            (relays[0], direct.staleness_p99_ms * 2.5),
            (relays[0], direct.staleness_p99_ms),
            arrowprops={"arrowstyle": "-|>", "color": _OF_STOCK},
        )
        panel.set_ylim(top=direct.staleness_p99_ms * 4)
    panel.annotate(
        words,
        (relays[0], direct.staleness_p99_ms),
        (10, 5),
        textcoords="offset points",
        color=_OF_STOCK,
    )


def _draw_cpu(panel: Any, plan: Plan, costs: Costs, relays: Sequence[int]) -> None:
    panel.set_title("Predicted CPU in cores: each additional relay costs the GCS more", loc="left")
    found = [predict(replace(plan, relays=n), costs) for n in relays]
    gcs = [each.gcs_cores for each in found]
    panel.plot(relays, gcs, color="black", linewidth=2)
    _name(panel, relays[-1], gcs[-1], "the GCS", "black")
    full = [(n, each.gcs_cores) for n, each in zip(relays, found, strict=True) if each.saturated]
    if full:
        # The GCS has one thread for this work. It cannot use more than one core, so work has to wait.
        panel.plot(*zip(*full, strict=True), "^", color="black", markersize=9)
        panel.annotate("saturated", full[0], (0, 10), textcoords="offset points", ha="center")
    of_relay = [each.relay_cores for each in found]
    panel.plot(relays, of_relay, color=_OF_RELAYS, linewidth=2)
    _name(panel, relays[-1], of_relay[-1], f"each relay, window {plan.window_ms:g} ms", _OF_RELAYS)
    panel.axhline(1, color="grey", linestyle=":")
    place = {"textcoords": "offset points", "color": "grey", "ha": "right"}
    panel.annotate("one core", (relays[-1] * 6, 1), (-2, -14), **place)


def _name(panel: Any, x: float, y: float, words: str, colour: str) -> None:
    panel.annotate(
        words, (x, y), (8, 0), textcoords="offset points", va="center", color=colour, fontsize=10
    )
