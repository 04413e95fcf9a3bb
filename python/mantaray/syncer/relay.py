"""Starts and stops the relay's program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import mantaray
from mantaray.syncer.status import RelayStatus, fetch_metrics, fetch_status

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 15.0


class RelayError(RuntimeError):
    """A relay could not be started; the message says why."""


def relay_program() -> Path:
    """Return where the relay's program lies.

    Raises:
        RelayError: this Mantaray has none.
    """
    path = Path(mantaray.__file__).resolve().parent / "bin" / "mantaray-relay"
    if not os.access(path, os.X_OK):
        raise RelayError(
            f"this Mantaray has no relay ({path} is not a program); "
            "pip install 'ray-mantaray[relay]'"
        )
    return path


class Relay:
    """A relay that runs during a `with` block, or from `start` to `stop`.

    It is a process of its own. It ends when this process ends, however this process ends.

    Args:
        upstream: the GCS or another relay, HOST:PORT.
        listen: where nodes connect, HOST:PORT; port 0 takes any free port. Nodes of the same machine need
            a wildcard address, because Ray rewrites 127.0.0.1 to the machine's own address.
        admin: where metrics and status are served, HOST:PORT.
        window_ms: how long the relay gathers updates for nodes; the relay's default if None.
        options: further options of the command line ("--grace-ms=5000").
        variables: environment variables in addition to those of this process (RAY_USE_TLS, ...).
        log: the file to which the relay's log is appended. If None, the log is dropped.
    """

    def __init__(
        self,
        upstream: str,
        listen: str = "0.0.0.0:0",
        *,
        admin: str = "127.0.0.1:0",
        window_ms: int | None = None,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        log: Path | str | None = None,
    ) -> None:
        self._arguments = [f"--upstream={upstream}", f"--listen={listen}"]
        self._arguments += [f"--admin-listen={admin}", "--log-format=json"]
        if window_ms is not None:
            self._arguments.append(f"--window-ms={window_ms}")
        self._arguments += options
        self._host = admin.rpartition(":")[0]
        self._variables = dict(variables or {})
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._started = threading.Event()
        self._ports: tuple[int, int] | None = None
        self._last_line = ""

    def start(self) -> Relay:
        """Start it and wait until it listens.

        Raises:
            RelayError: there is no relay, it refused its options, or it cannot listen.
        """
        if self._process is not None:
            raise RelayError("this relay runs already")
        self._started.clear()
        self._ports = None
        self._process = subprocess.Popen(
            [relay_program(), *self._arguments, f"--parent-pid={os.getpid()}"],
            env={**os.environ, **self._variables},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._started.wait(_START_TIMEOUT_S)
        if self._ports is None:
            self.stop()
            raise RelayError(f"the relay did not start: {self._last_line or 'no reason given'}")
        return self

    def stop(self) -> int | None:
        """End it in good order; return its exit status, or None if it did not run."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if self._reader is not None:
            self._reader.join(_STOP_TIMEOUT_S)
        return status

    def __enter__(self) -> Relay:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port where nodes connect."""
        return self._running()[0]

    @property
    def admin(self) -> str:
        """Where metrics and status are served, HOST:PORT."""
        return f"{self._host}:{self._running()[1]}"

    @property
    def pid(self) -> int:
        """The id of the relay's process."""
        self._running()
        assert self._process is not None
        return self._process.pid

    def status(self) -> RelayStatus:
        """Return its status; raises OSError if it does not answer."""
        return fetch_status(self.admin)

    def metrics(self) -> str:
        """Return its metrics as Prometheus text; raises OSError if it does not answer."""
        return fetch_metrics(self.admin)

    def _running(self) -> tuple[int, int]:
        if self._process is None or self._ports is None:
            raise RelayError("this relay does not run")
        return self._ports

    def _read_log(self) -> None:
        """Copy the log until its end. It is always read, because a full pipe would stop the relay."""
        assert self._process is not None and self._process.stderr is not None
        with open(self._log or os.devnull, "ab") as log, self._process.stderr as lines:
            for line in lines:
                log.write(line)
                log.flush()
                self._note(line.decode(errors="replace").strip())
        self._started.set()

    def _note(self, line: str) -> None:
        if self._started.is_set():
            return
        try:
            said = json.loads(line)
        except ValueError:
            said = {}
        self._last_line = said.get("reason", self._last_line or line.removeprefix("error: "))
        if said.get("event") == "relaying":
            self._ports = int(said["port"]), int(said["admin_port"])
            self._started.set()
