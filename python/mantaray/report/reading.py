"""Reads metrics from the exporters of nodes and relays, or from a Prometheus server that collects them."""

from __future__ import annotations

import json
import math
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mantaray.report.exposition import Sample, parse
from mantaray.report.recording import Recording

_TIMEOUT_S = 10.0
_SERVER_TIMEOUT_S = 60.0
_THREADS = 32
# Prometheus answers queries of up to 11,000 points; a chart needs far fewer.
_MOST_POINTS = 240
# Requests go to the address that was named, whatever proxy the environment asks for.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ReadingError(RuntimeError):
    """A Prometheus server could not be asked; the message says why."""


def sample(
    exporters: Collection[str],
    names: Collection[str],
    seconds: float,
    every_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Recording]:
    """Read all exporters again and again.

    Args:
        exporters: HOST:PORT of each.
        names: of the metrics to keep.
        seconds: how long to read. All exporters are read at least twice, because rates need two readings.
        every_s: seconds from one reading to the next.
        sleep: waits so many seconds.

    Returns:
        A recording for each exporter, by its address. An exporter that never answered has a problem.
    """
    recordings = {exporter: Recording() for exporter in exporters}
    answered: set[str] = set()
    began_s = time.monotonic()
    readings = max(2, int(seconds / every_s) + 1)
    with ThreadPoolExecutor(min(_THREADS, len(recordings) or 1)) as threads:
        for number in range(readings):
            sleep(max(0.0, began_s + number * every_s - time.monotonic()))
            # One time for the whole round, so that sums over nodes add up what belongs together.
            now_s = time.time()
            for exporter, told in zip(recordings, threads.map(_fetched, recordings), strict=True):
                if isinstance(told, str):
                    answered.add(exporter)
                    recordings[exporter].add(now_s, parse(told, names))
                else:
                    recordings[exporter].problem = f"{exporter} does not answer: {told}"
    for exporter in answered:
        recordings[exporter].problem = None
    return recordings


def _fetched(exporter: str) -> str | Exception:
    try:
        with _OPENER.open(f"http://{exporter}/metrics", timeout=_TIMEOUT_S) as answer:
            text: bytes = answer.read()
    except (OSError, ValueError) as error:
        return error
    return text.decode(errors="replace")


def query(
    server: str,
    exporters: Collection[str],
    names: Collection[str],
    seconds: float,
    every_s: float,
    now_s: float | None = None,
) -> tuple[dict[str, Recording], float]:
    """Ask a Prometheus server what it has collected from exporters.

    Args:
        server: its address, http://HOST:PORT.
        exporters: HOST:PORT of each, which is what Prometheus has in the label `instance`.
        names: of the metrics.
        seconds: how far to look back.
        every_s: seconds between two points. They are more if the answer would be too long for a chart.
        now_s: end of the time to look at, in seconds since the epoch; by default now.

    Returns:
        A recording for each exporter by its address, and the seconds between two points. An exporter of
        which the server knows nothing has a problem.

    Raises:
        ReadingError: the server does not answer, or answers with an error.
    """
    end_s = time.time() if now_s is None else now_s
    step_s = max(every_s, math.ceil(seconds / _MOST_POINTS))
    parameters = {
        "query": f'{{__name__=~"{"|".join(names)}"}}',
        "start": f"{end_s - seconds:.3f}",
        "end": f"{end_s:.3f}",
        "step": f"{step_s:g}",
    }
    recordings = {exporter: Recording() for exporter in exporters}
    for series in _ask(server, parameters):
        labels = dict(series["metric"])
        recording = recordings.get(labels.pop("instance", ""))
        if recording is not None:
            name = labels.pop("__name__")
            for time_s, value in series["values"]:
                one = Sample(name, tuple(sorted(labels.items())), float(value))
                recording.add(float(time_s), [one])
    for exporter, recording in recordings.items():
        if not recording.series:
            recording.problem = f"the Prometheus server has nothing from {exporter}"
    return recordings, step_s


def _ask(server: str, parameters: Mapping[str, str]) -> Iterable[Mapping[str, Any]]:
    # A POST, because the names make a long query.
    url = f"{server.rstrip('/')}/api/v1/query_range"
    try:
        body = urllib.parse.urlencode(parameters).encode()
        with _OPENER.open(url, body, timeout=_SERVER_TIMEOUT_S) as answer:
            told = json.load(answer)
        found: list[Mapping[str, Any]] = told["data"]["result"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReadingError(f"no answer from a Prometheus server at {server}: {error}") from error
    return found
