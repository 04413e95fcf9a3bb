"""The readings of an exporter over time, and sums, rates and quantiles of them."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mantaray.report.exposition import Labels, Sample

# (seconds since the epoch, value)
Point = tuple[float, float]
# How many readings a rate is a mean of. Agents renew their figures every five seconds, so the difference
# of two readings alone would be 0 and the double in turn.
RATE_READINGS = 3


@dataclass
class Recording:
    """The readings of one exporter.

    Attributes:
        series: points by name and labels, in the order of time.
        problem: why the exporter could not be read; None if it could be read at least once.
    """

    series: dict[tuple[str, Labels], list[Point]] = field(default_factory=dict)
    problem: str | None = None

    def add(self, time_s: float, samples: Iterable[Sample]) -> None:
        """Add one reading.

        Args:
            time_s: when it was made, in seconds since the epoch.
            samples: what the exporter said.
        """
        for sample in samples:
            if math.isfinite(sample.value):
                key = (sample.name, sample.labels)
                self.series.setdefault(key, []).append((time_s, sample.value))

    def named(self, name: str, **labels: str) -> list[list[Point]]:
        """Return the points of each series of a metric.

        Args:
            name: of the metric.
            labels: values that labels of the series must have.
        """
        wanted = set(labels.items())
        return [
            points
            for (metric, has), points in self.series.items()
            if metric == name and wanted <= set(has)
        ]

    def last(self, name: str, **labels: str) -> float | None:
        """Return the sum of the last values of a metric's series; None if there is no series."""
        found = self.named(name, **labels)
        return sum(points[-1][1] for points in found) if found else None

    def values_of(self, name: str, label: str) -> list[str]:
        """Return the values that a label has among the series of a metric, sorted."""
        found = {dict(has).get(label, "") for metric, has in self.series if metric == name}
        return sorted(found)


def combine(
    series: Sequence[Sequence[Point]], how: Callable[[Iterable[float]], float] = sum
) -> list[Point]:
    """Return one value of all series for each moment at which one of them was read.

    Between two of its own readings a series keeps its value. Before its first and after its last
    reading it counts for nothing.

    Args:
        series: points of each series.
        how: makes one value of those of a moment.
    """
    times = sorted({time_s for points in series for time_s, _ in points})
    combined = []
    for time_s in times:
        values = [value for points in series if (value := _value_at(points, time_s)) is not None]
        combined.append((time_s, how(values)))
    return combined


def _value_at(points: Sequence[Point], time_s: float) -> float | None:
    if not points or time_s < points[0][0] or time_s > points[-1][0]:
        return None
    return points[bisect.bisect_right(points, (time_s, math.inf)) - 1][1]


def rate(points: Sequence[Point]) -> list[Point]:
    """Return by how much a growing sum grew per second, from its second reading on.

    Each value is a mean of the last `RATE_READINGS` intervals. A sum that falls was begun anew, when an
    agent was restarted: the interval of the fall counts as no growth.

    Args:
        points: of the sum.
    """
    grown = [max(0.0, after - before) for (_, before), (_, after) in itertools.pairwise(points)]
    rates = []
    for index in range(1, len(points)):
        first = max(0, index - RATE_READINGS)
        seconds = points[index][0] - points[first][0]
        if seconds > 0:
            rates.append((points[index][0], sum(grown[first:index]) / seconds))
    return rates


def growth(points: Sequence[Point]) -> float:
    """Return by how much a growing sum grew in all; see `rate` for sums that fall."""
    return sum(max(0.0, after - before) for (_, before), (_, after) in itertools.pairwise(points))


def quantile(wanted: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile of a histogram, interpolated as Prometheus does; None if nothing was counted.

    Args:
        wanted: which one, between 0 and 1.
        buckets: counts of all values up to a bound, by bound; infinity is one of the bounds.

    Returns:
        The quantile. If it lies above the largest finite bound, that bound: a lower bound.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = wanted * buckets[bounds[-1]]
    below, count_below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return below
            inside = buckets[bound] - count_below
            return below + (bound - below) * ((rank - count_below) / inside if inside else 1.0)
        below, count_below = bound, buckets[bound]
    return below
