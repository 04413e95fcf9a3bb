"""Reading exporters and a Prometheus server over HTTP."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mantaray.cli.report import relay_at
from mantaray.report.reading import ReadingError, query, sample

NAMES = ("ray_mantaray_spill_live_bytes",)


@contextmanager
def server(answer: Callable[[str, str], tuple[int, str]]) -> Iterator[str]:
    """Serve what `answer` makes of path and body; yields HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            status, text = answer(self.path, self.rfile.read(size).decode())
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            return

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{served.server_port}"
    finally:
        served.shutdown()
        thread.join()
        served.server_close()


def test_all_nodes_are_read_at_one_time_and_a_silent_node_has_a_problem() -> None:
    readings = iter(range(1, 100))

    def answer(path: str, _: str) -> tuple[int, str]:
        assert path == "/metrics"
        return 200, f'{NAMES[0]}{{ip="a"}} {next(readings)}\nother 5\n'

    with server(answer) as exporter:
        found = sample([exporter, "127.0.0.1:1"], NAMES, 2, 1, sleep=lambda seconds: None)
    (points,) = found[exporter].named(NAMES[0])
    assert [value for _, value in points] == [1, 2, 3]
    assert found[exporter].problem is None
    assert list(found[exporter].series) == [(NAMES[0], (("ip", "a"),))]
    assert "127.0.0.1:1 does not answer" in (found["127.0.0.1:1"].problem or "")


def test_an_exporter_that_failed_once_has_no_problem() -> None:
    answers = iter([(500, ""), (200, f"{NAMES[0]} 1\n")])
    with server(lambda path, body: next(answers)) as exporter:
        found = sample([exporter], NAMES, 1, 1, sleep=lambda seconds: None)
    assert found[exporter].problem is None
    assert found[exporter].last(NAMES[0]) == 1


def test_rates_need_two_readings_however_short_the_time() -> None:
    with server(lambda path, body: (200, f"{NAMES[0]} 1\n")) as exporter:
        found = sample([exporter], NAMES, 0.001, 5, sleep=lambda seconds: None)
    assert len(found[exporter].named(NAMES[0])[0]) == 2


def test_no_exporter_at_all_is_no_error() -> None:
    assert sample([], NAMES, 1, 1, sleep=lambda seconds: None) == {}


def test_a_prometheus_server_is_asked_for_the_nodes_of_this_cluster_alone() -> None:
    asked = []

    def answer(path: str, body: str) -> tuple[int, str]:
        asked.append((path, {k: v[0] for k, v in urllib.parse.parse_qs(body).items()}))
        series = [
            {
                "metric": {"__name__": NAMES[0], "instance": instance, "job": "ray"},
                "values": [[1_000, "5"], [1_015, "7"]],
            }
            for instance in ("10.0.0.1:8080", "10.0.9.9:8080")
        ]
        return 200, json.dumps({"status": "success", "data": {"result": series}})

    with server(answer) as prometheus:
        found, step_s = query(
            f"http://{prometheus}/", ["10.0.0.1:8080", "10.0.0.2:8080"], NAMES, 7_200, 5, 10_000
        )
    ((path, parameters),) = asked
    assert path == "/api/v1/query_range"
    assert parameters["query"] == f'{{__name__=~"{NAMES[0]}"}}'
    assert (parameters["start"], parameters["end"]) == ("2800.000", "10000.000")
    # 1,440 points of five seconds would be more than a chart shows.
    assert step_s == float(parameters["step"]) == 30
    assert found["10.0.0.1:8080"].named(NAMES[0]) == [[(1_000, 5), (1_015, 7)]]
    assert found["10.0.0.2:8080"].problem == "the Prometheus server has nothing from 10.0.0.2:8080"
    assert set(found) == {"10.0.0.1:8080", "10.0.0.2:8080"}


@pytest.mark.parametrize(
    "told", [(400, '{"status":"error"}'), (200, "<html>"), (200, '{"data":[]}')]
)
def test_what_is_no_prometheus_server_is_one_error(told: tuple[int, str]) -> None:
    refused = pytest.raises(ReadingError, match="no answer from a Prometheus server at http")
    with server(lambda path, body: told) as prometheus, refused:
        query(f"http://{prometheus}", ["a:1"], NAMES, 60, 5)


@pytest.mark.parametrize(
    ("why", "problem"), [("", None), ("refused", "it is not connected to head:6379 (refused)")]
)
def test_an_unused_relay_without_upstream_needs_no_look(why: str, problem: str | None) -> None:
    told = {
        "relay_id": "1" * 16,
        "upstream": "head:6379",
        "upstream_connected": False,
        "upstream_problem": why,
        "window_ms": 25,
        "nodes": 0,
        "refused": 0,
        "streams": [],
    }
    with server(lambda path, body: (200, json.dumps(told))) as admin:
        relay = relay_at(admin)
    assert relay.problem == problem
    assert [branch.depth for branch in relay.branches] == [0]
