"""The supervisor of the head's relay: starts it again, and goes when the head has gone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mantaray.syncer.patch import relay_options
from mantaray.syncer.supervise_main import Supervisor, process_mark, with_admin_port

# Notes that it was started, and stays.
STAYS = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait until it holds; return whether it did."""
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def head() -> subprocess.Popen[bytes]:
    """A process that stands for the head."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_a_killed_relay_is_started_again_and_goes_with_the_head(
    tmp_path: Path, head: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Signals belong to the main thread, and this test needs that itself.
    monkeypatch.setattr("signal.signal", lambda *_: None)
    note = tmp_path / "pids"
    note.touch()

    def pids() -> list[int]:
        return [int(line) for line in note.read_text().split()]

    command = [sys.executable, "-c", STAYS, str(note)]
    supervisor = Supervisor(lambda: command, [head.pid], tmp_path / "log", lambda _: True)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    assert eventually(lambda: len(pids()) == 1)
    subprocess.run(["kill", "-9", str(pids()[0])], check=True)
    assert eventually(lambda: len(pids()) == 2)
    assert process_mark(pids()[1]) is not None
    head.kill()
    head.wait()
    thread.join(120)
    assert not thread.is_alive()
    assert process_mark(pids()[1]) is None


def test_a_relay_that_hangs_is_killed_and_started_again(
    tmp_path: Path, head: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    note = tmp_path / "pids"
    note.touch()

    def pids() -> list[int]:
        return [int(line) for line in note.read_text().split()]

    command = [sys.executable, "-c", STAYS, str(note)]
    # The first one does not even end by SIGTERM; those after it answer.
    supervisor = Supervisor(
        lambda: command,
        [head.pid],
        tmp_path / "log",
        lambda _: len(pids()) > 1,
        hung_s=1.0,
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    assert eventually(lambda: len(pids()) == 1)
    subprocess.run(["kill", "-STOP", str(pids()[0])], check=True)
    assert eventually(lambda: len(pids()) == 2)
    assert process_mark(pids()[0]) is None
    assert f"(pid {pids()[0]}) hangs" in (tmp_path / "log").read_text()
    head.kill()
    head.wait()
    thread.join(120)
    assert not thread.is_alive()
    # The one that answered was left alone.
    assert len(pids()) == 2


def test_the_supervisor_finds_an_admin_port_where_none_was_asked_for() -> None:
    before = ["--listen=0.0.0.0:1", "--admin-listen=127.0.0.1:0"]
    after = with_admin_port(before)
    assert after[0] == before[0]
    assert int(after[1].removeprefix("--admin-listen=127.0.0.1:")) > 0
    told = ["--admin-listen=127.0.0.1:7070"]
    assert with_admin_port(told) == told


def test_the_heads_relay_stays_on_the_network_that_the_head_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def listens(gcs: str) -> str:
        return relay_options(gcs, 6390)[1]

    monkeypatch.delenv("MANTARAY_RELAY_HOST", raising=False)
    assert listens("10.0.0.7:6379") == "--listen=10.0.0.7:6390"
    assert listens("[fd00::7]:6379") == "--listen=[fd00::7]:6390"
    monkeypatch.setenv("MANTARAY_RELAY_HOST", "0.0.0.0")
    assert listens("10.0.0.7:6379") == "--listen=0.0.0.0:6390"


def test_the_heads_relay_gets_its_budget_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def budget() -> list[str]:
        options = relay_options("10.0.0.7:6379", 6390)
        return [option for option in options if "memory" in option]

    monkeypatch.delenv("MANTARAY_RELAY_MAX_MEMORY_BYTES", raising=False)
    assert budget() == []
    monkeypatch.setenv("MANTARAY_RELAY_MAX_MEMORY_BYTES", "1000000000")
    assert budget() == ["--max-memory-bytes=1000000000"]


def test_another_process_with_the_heads_id_does_not_keep_it(
    tmp_path: Path, head: subprocess.Popen[bytes]
) -> None:
    before = process_mark(head.pid)
    assert before is not None
    assert process_mark(head.pid) == before
    head.kill()
    # Dead and not yet reaped is as good as gone.
    assert eventually(lambda: process_mark(head.pid) is None)
    head.wait()
