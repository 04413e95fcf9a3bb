"""Relays in tests: started with `mantaray relay` as an operator would, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from . import processes
from .cluster import free_ports
from .rays import RayEnv, new_tag

_START_TIMEOUT_S = 30.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RelayProcess:
    """A relay on the wildcard address of this machine, gone at the end of the `with` block.

    Args:
        env: the environment whose `mantaray` runs.
        upstream: HOST:PORT.
        root: a directory for its log.
        options: further options.
        variables: environment on top of the usual.
    """

    def __init__(
        self,
        env: RayEnv,
        upstream: str,
        root: Path,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.env = env
        self.port, self.admin_port = free_ports(2)
        self.log = root / f"relay-{self.port}.log"
        self._arguments = [
            f"--upstream={upstream}",
            f"--listen=0.0.0.0:{self.port}",
            f"--admin-listen=127.0.0.1:{self.admin_port}",
            "--log-format=json",
            *options,
        ]
        self._tag = new_tag()
        self._variables = dict(variables or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where nodes join; Ray leaves this loopback address as it is."""
        return f"127.0.0.9:{self.port}"

    @property
    def admin(self) -> str:
        """Where it tells how it stands."""
        return f"127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> RelayProcess:
        """Start it, also again, and wait until it serves."""
        variables = {processes.TAG_VARIABLE: self._tag, **self._variables}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [str(self.env.bin("mantaray")), "relay", *self._arguments],
                env=self.env.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self.status()
                return self
            except OSError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(f"no relay:\n{self.log.read_text()}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def terminate(self) -> int:
        """End it in good order; return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(15)

    def status(self) -> dict[str, Any]:
        """Return how it stands."""
        return dict(json.loads(self._get("/status")))

    def streams(self) -> list[dict[str, Any]]:
        """Return its downstream streams."""
        return [stream for stream in self.status()["streams"] if not stream["upstream"]]

    def metric(self, sample: str) -> float:
        """Return the value of one sample, named with its labels."""
        for line in self._get("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        raise AssertionError(f"no sample {sample}")

    def answer(self, path: str) -> int:
        """Return the HTTP status of a path."""
        try:
            with _OPENER.open(f"http://{self.admin}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def _get(self, path: str) -> str:
        with _OPENER.open(f"http://{self.admin}{path}", timeout=5) as response:
            text: bytes = response.read()
        return text.decode()

    def __enter__(self) -> RelayProcess:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self.log.exists():
            print(f"--- relay {self.port}\n{self.log.read_text()[-4000:]}")
        left = processes.stop_all(self._tag)
        if self._process is not None:
            self._process.wait(10)
        assert not left, f"relays that do not end:\n{processes.describe(left)}"


def stopped(pid: int) -> Stopped:
    """Stop a process for the time of a `with` block."""
    return Stopped(pid)


class Stopped:
    """See `stopped`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGCONT)
