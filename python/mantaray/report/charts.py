"""Line charts as SVG, with the name of each line beside its end."""

from __future__ import annotations

import html
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mantaray.report.recording import Point

WIDTH, HEIGHT = 360, 190
# The margins for the axes and the names of the lines, in units of the picture.
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 100, 12, 22
_LINE_HEIGHT = 13
_LONGEST_NAME = 16
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

Format = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: stands beside its end.
        points: in the order of time.
        colour: number of its colour in the style of the page. What a line means decides its colour, so
            that the same thing has the same colour in every chart.
    """

    name: str
    points: Sequence[Point]
    colour: int


def in_bytes(value: float) -> str:
    """Return a number of bytes for people, in decimal units: "1.5 GB"."""
    for factor, prefix in _PREFIXES:
        if value >= factor:
            return f"{_digits(value / factor)} {prefix}B"
    return f"{_digits(value)} B"


def in_bytes_per_second(value: float) -> str:
    """Return a rate for people: "1.5 GB/s"."""
    return in_bytes(value) + "/s"


def in_ms(value: float) -> str:
    """Return a duration in milliseconds for people, in seconds from one second on."""
    return f"{_digits(value)} ms" if value < 1_000 else f"{_digits(value / 1_000)} s"


def plain(value: float) -> str:
    """Return a number for people."""
    return _digits(value)


def _digits(value: float) -> str:
    """Return three digits at most, more only for whole numbers."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def line_chart(title: str, lines: Sequence[Line], shown: Format) -> str:
    """Return an SVG of lines over time, from zero.

    Args:
        title: what the chart shows, for screen readers.
        lines: at least one, and one of them has a point.
        shown: how a value is written.
    """
    times = [time_s for line in lines for time_s, _ in line.points]
    first_s, last_s = min(times), max(times)
    top = _ceiling(max(value for line in lines for _, value in line.points))
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(time_s: float) -> float:
        part = (time_s - first_s) / (last_s - first_s) if last_s > first_s else 1.0
        return _LEFT + part * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - value / top * (bottom - _TOP)

    parts = [f"<title>{html.escape(title)}</title>"]
    for value in (0, top / 2, top):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(_text(_LEFT - 5, y(value) + 4, shown(value), "end"))
    parts.append(_text(_LEFT, HEIGHT - 6, _clock(first_s), "start"))
    parts.append(_text(right, HEIGHT - 6, _clock(last_s), "end"))
    ends = _apart([y(line.points[-1][1]) if line.points else bottom for line in lines])
    for line, end in zip(lines, ends, strict=True):
        parts += _drawn(line, [(x(time_s), y(value)) for time_s, value in line.points], shown)
        name = _shortened(line.name)
        parts.append(_text(right + 6, end + 4, name, "start", f"name c{line.colour}", line.name))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _drawn(line: Line, places: Sequence[tuple[float, float]], shown: Format) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [f'<polyline class="line c{line.colour}" points="{path}"/>']
    for (x, y), (time_s, value) in zip(places, line.points, strict=True):
        hint = html.escape(f"{line.name}, {_clock(time_s)}: {shown(value)}")
        drawn.append(
            f'<circle class="dot c{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="2">'
            f"<title>{hint}</title></circle>"
        )
    return drawn


def _text(
    x: float, y: float, words: str, anchor: str, style: str = "axis", hint: str | None = None
) -> str:
    title = f"<title>{html.escape(hint)}</title>" if hint and hint != words else ""
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{title}{html.escape(words)}</text>"
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _apart(heights: Sequence[float]) -> list[float]:
    """Return the heights of the lines' names, moved so that no name covers another one."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = list(heights)
    for before, index in itertools.pairwise(order):
        moved[index] = max(moved[index], moved[before] + _LINE_HEIGHT)
    # Names that were pushed below the picture move up again and push others up.
    limit = float(HEIGHT - _BOTTOM)
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - _LINE_HEIGHT
    return moved


def _ceiling(value: float) -> float:
    """Return a round number that is not below a value, and not 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def _clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(time_s))
