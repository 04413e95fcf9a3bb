"""The commands, against the running service, and `serve` as a process of its own that drains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import free_port
from served import Served

from knowledge.cli import main

STARTING_TIMEOUT_S = 120.0


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return its status, and what it wrote."""
    status = main(arguments)
    told = capsys.readouterr()
    return status, told.out, told.err


def test_ask_shows_answer_sources_plan_and_time(
    running: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("ask", "What does heapq.merge do?", "--url", running.url, "--session", "cli")
    status, out, _ = command(capsys, *asked, "--explain")
    assert status == 0
    assert "Merge multiple sorted inputs into a single sorted output. [1]" in out
    assert "[1] heapq.merge  doc://python/heapq.merge" in out
    assert "plan: lexical, k=5, contextual > long-term" in out
    assert "found: heapq.merge (contextual; lexical #1)" in out
    assert "ms: queue" in out
    told = json.loads(command(capsys, *asked, "--json")[1])
    assert told["known"]


def test_plan_status_flush_and_forget_work(
    running: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ("--url", running.url)
    tenant = ("--tenant", "cli")
    assert command(capsys, "ask", "Anything at all?", "--session", "c", *url, *tenant)[0] == 0
    status, out, _ = command(capsys, "plan", "json.dumps", *url)
    assert (status, json.loads(out)["strategy"]) == (0, "lexical")
    assert json.loads(command(capsys, "status", *url, *tenant)[1])["memory"]["short-term"] == 1
    assert (
        "1 exchanges of session c are long-term" in command(capsys, "flush", "c", *url, *tenant)[1]
    )
    assert (
        "1 exchanges of session c are forgotten" in command(capsys, "forget", "c", *url, *tenant)[1]
    )
    memory = json.loads(command(capsys, "status", *url, *tenant)[1])["memory"]
    assert (memory["short-term"], memory["long-term"]) == (0, 0)


def test_plan_by_the_rules_needs_no_service(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, "plan", "--local", "Summarise the csv module")
    assert status == 0
    assert json.loads(out)["summarise"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ask", "q", "--url", "http://127.0.0.1:9"), "no service at http://127.0.0.1:9"),
        (("serve", "--settings", "/nowhere.yaml"), "/nowhere.yaml cannot be read"),
        (("run", "/nowhere.yaml"), "/nowhere.yaml cannot be read"),
        (("serve", "--port", "99999"), "port is from 1 to 65535"),
    ],
)
def test_what_does_not_work_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    status, _, err = command(capsys, *arguments)
    assert status == 1
    assert err.startswith("knowledge: ")
    assert message in err
    assert err.count("\n") == 1


def test_service_s_refusal_is_told(running: Served, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = command(capsys, "ask", "x" * 5000, "--url", running.url)
    assert status == 1
    assert "status 422" in err


@pytest.mark.slow
def test_serve_answers_and_ends_on_sigterm_without_losing_a_question(tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "KNOWLEDGE_PORT": str(port), "KNOWLEDGE_EMBEDDER": "hash-64"}
    serving = [sys.executable, "-m", "knowledge", "serve", "--directory", str(tmp_path / "m")]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(serving, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False
        ) as client:
            wait_until_healthy(client, process, tmp_path / "log")
            outcomes: list[Any] = []
            askers = [threading.Thread(target=ask, args=(port, outcomes)) for _ in range(8)]
            for asker in askers:
                asker.start()
            time.sleep(1.0)
            process.send_signal(signal.SIGTERM)
            for asker in askers:
                asker.join(60)
        assert process.wait(90) == 0, (tmp_path / "log").read_text()
        assert any(outcome == 200 for outcome in outcomes)
        # Whoever asked was told, and nobody hung.
        assert not any(asker.is_alive() for asker in askers)
    finally:
        process.kill()
        process.wait()
        log.close()


def ask(port: int, outcomes: list[Any]) -> None:
    """Ask until the service is gone."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
        while True:
            try:
                reply = client.post("/ask", json={"question": "What is a heap?"})
            except httpx.TransportError as error:
                outcomes.append(type(error).__name__)
                return
            outcomes.append(reply.status_code)
            if reply.status_code != 200:
                return


def wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the service answers, and its command says so."""
    end = time.monotonic() + STARTING_TIMEOUT_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/healthz").status_code == 200 and "answers at" in log.read_text():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(log.read_text())
