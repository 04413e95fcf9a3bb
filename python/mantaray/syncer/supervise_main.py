"""Keeps the head's relay running: `mantaray.syncer.supervise_main PIDS LOG OPTION...`.

PIDS are those of the head's GCS and raylet, separated by commas. A relay that ends is started again,
at once the first time, and then after longer and longer delays. A relay that has answered no health check
for `_HUNG_S` is killed and started again. The relay runs as long as one of the processes lives, because a
GCS may be restarted beside its raylet. When all of them are gone, this program ends the relay and itself.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from mantaray.syncer.relay import relay_program
from mantaray.syncer.status import is_healthy

_POLL_S = 0.5
_FIRST_DELAY_S = 0.2
_MAX_DELAY_S = 10.0
# A relay that ran for so long is started again at once.
_HEALTHY_S = 30.0
_PROBE_EVERY_S = 2.0
# A relay that answers no health check for so long is killed. Ray gives up after 60 s.
_HUNG_S = 20.0
# How long a relay may take to end after SIGTERM.
_END_S = 15.0
_ADMIN = "--admin-listen="


def process_mark(pid: int) -> str | None:
    """Return a mark that a later process with the same id does not have; None if there is no process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name may contain anything, so the fields behind it are counted. The first is the state, the 20th
    # the start.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


class Supervisor:
    """Starts a program again and again while one of some processes lives.

    Args:
        command: returns the command to run; called for each start.
        pids: the processes.
        log: the file to which its output is appended.
        healthy: returns whether a program that was started with this command answers.
        hung_s: after how many seconds without an answer a program is killed.
    """

    def __init__(
        self,
        command: Callable[[], Sequence[str]],
        pids: Sequence[int],
        log: Path,
        healthy: Callable[[Sequence[str]], bool],
        hung_s: float = _HUNG_S,
    ) -> None:
        self._command = command
        self._healthy = healthy
        self._hung_s = hung_s
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
        command = self._command()
        with open(self._log, "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
            answered = probed = time.monotonic()
            while process.poll() is None and self._wanted():
                time.sleep(_POLL_S)
                if time.monotonic() - probed >= min(_PROBE_EVERY_S, self._hung_s / 4):
                    probed = time.monotonic()
                    if self._healthy(command):
                        answered = time.monotonic()
                    elif time.monotonic() - answered > self._hung_s:
                        log.write(f"the relay (pid {process.pid}) hangs: killing it\n".encode())
                        process.kill()
        _end(process)

    def _sleep(self, delay_s: float) -> None:
        until = time.monotonic() + delay_s
        while time.monotonic() < until and self._wanted():
            time.sleep(min(_POLL_S, delay_s))

    def _wanted(self) -> bool:
        alive = any(process_mark(pid) == mark for pid, mark in self._watched)
        return alive and not self._ended

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._ended = True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with SIGTERM, or with SIGKILL if that takes too long."""
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def with_admin_port(options: Sequence[str]) -> list[str]:
    """Return the options with a port that is free now in place of an admin port 0."""
    return [
        f"{option[:-1]}{_free_port()}" if option == f"{_ADMIN}127.0.0.1:0" else option
        for option in options
    ]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _answers(command: Sequence[str]) -> bool:
    return any(is_healthy(o.removeprefix(_ADMIN)) for o in command if o.startswith(_ADMIN))


def main(arguments: Sequence[str]) -> None:
    """Supervise a relay."""
    pids, log, *options = arguments
    first = str(relay_program())

    def command() -> list[str]:
        return [first, *with_admin_port(options), f"--parent-pid={os.getpid()}"]

    Supervisor(command, [int(pid) for pid in pids.split(",")], Path(log), _answers).run()


if __name__ == "__main__":
    main(sys.argv[1:])
