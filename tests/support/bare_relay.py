"""The relay's program alone, between an upstream and clients of a test's own; no Ray is needed."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from mantaray.syncer import relay_program

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class BareRelay:
    """A relay on 127.0.0.1, ended at the end of the `with` block.

    Args:
        upstream: where its upstream listens: HOST:PORT, or a port on 127.0.0.1.
        options: further options.
        program: another build of it.
    """

    def __init__(
        self, upstream: int | str, *options: str, program: str | Path | None = None
    ) -> None:
        self._command = [
            str(program or relay_program()),
            f"--upstream={upstream if isinstance(upstream, str) else f'127.0.0.1:{upstream}'}",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
            "--log-format=json",
            *options,
        ]

    def __enter__(self) -> BareRelay:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        told = json.loads(self._process.stderr.readline())
        self.port = int(told["port"])
        self._admin_port = int(told["admin_port"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = self._process.poll()
        self._process.kill()
        _, said = self._process.communicate()
        if error is not None:
            print(said[-4000:])
        assert status is None, f"the relay ended by itself with {status}:\n{said[-4000:]}"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def metrics(self) -> dict[str, float]:
        """Return its metrics: names with labels, and values."""
        url = f"http://127.0.0.1:{self._admin_port}/metrics"
        with _OPENER.open(url, timeout=60) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def memory_bytes(self, what: str = "VmRSS") -> int:
        """Return how much memory it has, or with "VmHWM" the most that it ever had."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(f"{what}:")).split()[1])

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def eventually(
        self, condition: Callable[[dict[str, float]], bool], timeout_s: float = 60.0
    ) -> bool:
        """Wait until the condition holds for its metrics; return whether it did."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.metrics()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True
