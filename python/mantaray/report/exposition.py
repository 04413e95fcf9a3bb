"""Reads the text in which exporters of Prometheus write their metrics."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

# name{label="value",...} value [timestamp]
_LINE = re.compile(
    r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?"
)
_LABEL = re.compile(r'\s*(?P<name>\w+)="(?P<value>(?:[^"\\]|\\.)*)"\s*,?')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sample:
    """The value of one series.

    Attributes:
        name: of the metric.
        labels: name and value of each label, sorted by name.
        value: of the series.
    """

    name: str
    labels: Labels
    value: float


def parse(text: str, names: Collection[str]) -> Iterator[Sample]:
    """Yield the samples of the metrics that are asked for; lines that are no samples are skipped.

    Args:
        text: what the exporter answered.
        names: of the metrics. A busy node exports thousands of others.
    """
    for line in text.splitlines():
        # Before the pattern, because most lines are of other metrics.
        if line.partition("{")[0].partition(" ")[0] not in names:
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        yield Sample(match["name"], _labels(match["labels"] or ""), value)


def _labels(text: str) -> Labels:
    found = {match["name"]: _unescaped(match["value"]) for match in _LABEL.finditer(text)}
    return tuple(sorted(found.items()))


def _unescaped(value: str) -> str:
    return re.sub(r"\\.", lambda match: _ESCAPES.get(match[0], match[0]), value)
