"""Keeps the head's relay running: `mantaray.syncer.supervise_main PIDS LOG OPTION...`.

PIDS are those of the head's GCS and raylet, separated by commas. A relay that ends is started again,
at once the first time and then ever less often. It stays for as long as one of the processes does: a
GCS may be restarted beside its raylet. When all are gone the relay is ended, and so is this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from mantaray.syncer.relay import relay_program

_POLL_S = 0.5
_FIRST_DELAY_S = 0.2
_MAX_DELAY_S = 10.0
# A relay that ran for so long is worth being started at once again.
_HEALTHY_S = 30.0


def process_mark(pid: int) -> str | None:
    """Return what tells this process from a later one with its id; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # Behind the name, which may hold anything: the state is the first field, the start the 20th.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


class Supervisor:
    """Starts a program again and again while one of some processes lives.

    Args:
        command: what to start.
        pids: the processes.
        log: a file that its output is appended to.
    """

    def __init__(self, command: Sequence[str], pids: Sequence[int], log: Path) -> None:
        self._command = list(command)
        self._watched = [(pid, mark) for pid in pids if (mark := process_mark(pid)) is not None]
        self._log = log
        self._ended = False

    def run(self) -> None:
        """Supervise until the last of the processes is gone, or SIGTERM."""
        signal.signal(signal.SIGTERM, self._on_signal)
        delay_s = 0.0
        while self._wanted():
            started = time.monotonic()
            self._run_once()
            if time.monotonic() - started > _HEALTHY_S:
                delay_s = 0.0
            self._sleep(delay_s)
            delay_s = min(max(2 * delay_s, _FIRST_DELAY_S), _MAX_DELAY_S)

    def _run_once(self) -> None:
        with open(self._log, "ab") as log:
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log)
        while process.poll() is None and self._wanted():
            time.sleep(_POLL_S)
        process.terminate()
        process.wait()

    def _sleep(self, delay_s: float) -> None:
        until = time.monotonic() + delay_s
        while time.monotonic() < until and self._wanted():
            time.sleep(min(_POLL_S, delay_s))

    def _wanted(self) -> bool:
        alive = any(process_mark(pid) == mark for pid, mark in self._watched)
        return alive and not self._ended

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._ended = True


def main(arguments: Sequence[str]) -> None:
    """Supervise a relay."""
    pids, log, *options = arguments
    command = [str(relay_program()), *options, f"--parent-pid={os.getpid()}"]
    Supervisor(command, [int(pid) for pid in pids.split(",")], Path(log)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
