"""The supervisor of the head's relay: starts it again, and goes when the head has gone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mantaray.syncer.supervise_main import Supervisor, process_mark

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
    supervisor = Supervisor(command, [head.pid], tmp_path / "log")
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
