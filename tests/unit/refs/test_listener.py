"""The sockets at which processes answer about their references."""

from __future__ import annotations

import subprocess
import sys

import pytest
from mantaray.refs import listener

_PROGRAM = """
import os
from types import SimpleNamespace
from mantaray.refs.listener import Listener

# The first driver of every cluster has the same id.
core_worker = SimpleNamespace(get_worker_id=lambda: bytes(28))
first = Listener(SimpleNamespace(core_worker=core_worker))
child = os.fork()
if child == 0:
    try:
        Listener(SimpleNamespace(core_worker=core_worker))
    except OSError:
        os._exit(1)
    os._exit(0)
status = os.waitpid(child, 0)[1]
first.close()
print(status)
"""


def test_drivers_of_two_clusters_on_one_machine_both_listen() -> None:
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0"


def test_process_without_a_listener_is_told_from_one_that_does_not_answer() -> None:
    with pytest.raises(
        listener.NoAnswerError, match="it does not listen: Mantaray is not attached"
    ):
        listener.ask("ab" * 28, 1, "00" * 28, timeout_s=1, max_stop_ms=20)
