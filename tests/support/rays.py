"""Environments that hold a Ray, and running programs in them.

The tests themselves run without Ray; a live test runs a *program* with the interpreter of such an
environment and asserts on the JSON it prints as its last line.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import processes

REPOSITORY = Path(__file__).resolve().parents[2]
# The two fixed points. MANTARAY_TEST_RAYS names others, in order, for a run by hand.
VERSIONS = tuple(os.environ.get("MANTARAY_TEST_RAYS", "2.48.0,2.60.0").split(","))
# What is waited for comes soon, or, on a machine with much else to do, late; only a hang reaches these.
PROGRAM_TIMEOUT_S = 400.0
START_TIMEOUT_S = 180.0
# These would reach into Ray, Mantaray or Python from the shell in which the tests were started.
_NOT_INHERITED = ("MANTARAY_", "_MANTARAY_", "RAY_", "PYTHON")
# Tests choose these: no usage reports, and no token that a first start would leave in the home. And time to
# start in: a node whose raylet or agent, or a dashboard of which a part is not up in half a minute, ends.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_agent_register_timeout_ms": "240000",
    # A driver of 2.48 whose first workers take longer than this waits for ever.
    "RAY_worker_register_timeout_seconds": "120",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "240",
}
_COUNTER = itertools.count(1)


def session_tag() -> str:
    """Return the tag that every process of this test run inherits."""
    return os.environ.setdefault(processes.TAG_VARIABLE, f"run-{os.getpid()}-{os.urandom(4).hex()}")


def new_tag() -> str:
    """Return a tag for one program or cluster of this run."""
    return f"{session_tag()}.{next(_COUNTER)}"


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory whose path leaves room for Ray's socket names (107 bytes); remove it."""
    path = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Finished:
    """A program that ran to its end.

    Attributes:
        told: what its last line of output says, parsed as JSON.
        stdout: all it wrote there.
        stderr: and there.
    """

    told: Any
    stdout: str
    stderr: str


@dataclass(frozen=True)
class RayEnv:
    """A virtual environment with an official Ray and Mantaray beside it.

    Attributes:
        version: Ray's release.
        root: the environment's directory.
    """

    version: str
    root: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.bin("python")

    def bin(self, name: str) -> Path:
        """Return the path of one of the environment's commands."""
        return self.root / "bin" / name

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the variables for a process of this environment; what concerns Ray is set here."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
        }
        path = f"{self.root / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
        return kept | {"PATH": path} | RAY_ENVIRONMENT | extra

    def run_program(
        self,
        program: Path | str,
        args: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        timeout_s: float = PROGRAM_TIMEOUT_S,
    ) -> Any:
        """Run a program to its end and return what its last line says; see `run`."""
        return self.run(program, args, env, timeout_s).told

    def run(
        self,
        program: Path | str,
        args: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        timeout_s: float = PROGRAM_TIMEOUT_S,
        left_timeout_s: float = processes.GONE_TIMEOUT_S,
    ) -> Finished:
        """Run a program to its end.

        Args:
            program: a file, or Python code.
            args: its arguments.
            env: variables to set on top of `environment()`.
            timeout_s: in seconds; a program that takes longer is killed with all it started.
            left_timeout_s: how long what it started may stay after its end, in seconds.

        The test fails, with all the program printed, when it ends with another status than 0,
        prints no JSON, or leaves a process behind.
        """
        tag = new_tag()
        with short_directory() as scratch:
            file = _as_file(program, scratch)
            variables = self.environment(**{processes.TAG_VARIABLE: tag}, **(env or {}))
            command = [str(self.python), str(file), *map(str, args)]
            done = _run(command, variables, scratch, timeout_s, tag)
            left = processes.wait_until_gone(tag, timeout_s=left_timeout_s)
            names = processes.describe(left)
            processes.stop_all(tag)
        output = f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        if done.returncode != 0:
            pytest.fail(f"{file.name} on Ray {self.version}: status {done.returncode}\n{output}")
        if left:
            pytest.fail(f"{file.name} on Ray {self.version} left processes:\n{names}\n{output}")
        told = _last_line(done.stdout, f"{file.name} on Ray {self.version}", output)
        return Finished(told, done.stdout, done.stderr)


def assert_start_refused(env: RayEnv, words: str, *arguments: str, **variables: str) -> None:
    """Start a head with a setting that is not allowed: it ends with one sentence, without a traceback.

    Args:
        env: the environment with the Ray.
        words: what the sentence has to say.
        arguments: of `ray start`, on top of those for a head without a dashboard.
        variables: of the process.
    """
    command = [str(env.bin("ray")), "start", "--head", "--node-ip-address=127.0.0.1", "--port=0"]
    with short_directory() as root:
        done = subprocess.run(
            [*command, f"--temp-dir={root}", "--include-dashboard=false", *arguments],
            env=env.environment(**variables),
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
        )
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def find_ray(version: str) -> RayEnv:
    """Return the environment with this Ray; the test fails when there is none.

    MANTARAY_TEST_VENVS names another directory that holds ray-<version>/.
    """
    base = Path(os.environ.get("MANTARAY_TEST_VENVS", REPOSITORY / ".venvs"))
    env = RayEnv(version, base / f"ray-{version}")
    if not env.python.exists():
        pytest.fail(f"no environment with Ray {version} at {env.root}; `make test` makes it")
    return env


def find_stock_ray(version: str) -> RayEnv:
    """Return the environment with this Ray in which Mantaray cannot be imported; see `find_ray`."""
    base = Path(os.environ.get("MANTARAY_TEST_VENVS", REPOSITORY / ".venvs"))
    env = RayEnv(version, base / f"stock-{version}")
    if not env.python.exists():
        pytest.fail(f"no stock Ray {version} at {env.root}; `tools/setup stock-{version}` makes it")
    return env


def _as_file(program: Path | str, scratch: Path) -> Path:
    if isinstance(program, Path):
        return program
    # A file, so that a traceback shows the failing line.
    file = scratch / "program.py"
    file.write_text(program)
    return file


def _run(
    command: list[str], variables: dict[str, str], cwd: Path, timeout_s: float, tag: str
) -> subprocess.CompletedProcess[str]:
    # Files, not pipes: a process left behind would keep a pipe open and us waiting for its end.
    with open(cwd / "stdout", "w+") as out, open(cwd / "stderr", "w+") as err:
        process = subprocess.Popen(
            command,
            env=variables,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            processes.stop_all(tag)
            err.write(f"\nkilled: it did not end within {timeout_s:.0f} s\n")
            err.flush()
        except BaseException:
            processes.stop_all(tag)
            raise
        texts = [(cwd / name).read_text(errors="replace") for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(command, process.returncode, *texts)


def _last_line(stdout: str, what: str, output: str) -> Any:
    # Ray prints what its nodes say (a worker died) whenever it hears of it, also after the program's
    # last word.
    for line in reversed(stdout.strip().splitlines()):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    pytest.fail(f"{what}: no line is JSON\n{output}")
