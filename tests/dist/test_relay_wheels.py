"""The relay of each wheel: static, and it answers here, on an old system and on another machine."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.dist.systems import Root
from tests.support.rays import REPOSITORY

MACHINES = ("x86_64", "aarch64")
QUIET = ("--upstream=127.0.0.1:1", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0")
PROGRAM_TESTS = "tests/unit/syncer/test_relay_program.py"
# HTTP/2: what a client opens a connection with, an empty SETTINGS frame, and the type of such a frame.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_SETTINGS = bytes(3) + b"\x04\x00" + bytes(4)
SETTINGS_TYPE = 4
HEADERS_TYPE, END_HEADERS = 1, 4
PING_TYPE, ACK = 6, 1
# HPACK: POST, http, and three fields that are not in its table, as they are.
CALL = b"\x83\x86" + b"".join(
    name + bytes([len(value)]) + value
    for name, value in (
        (b"\x04", b"/b/Poll"),
        (b"\x01", b"relay"),
        (b"\x0f\x10", b"application/grpc"),
        (b"\x00\x02te", b"trailers"),
    )
)
CALLS = re.compile(r"^mantaray_relay_proxy_(?:calls_total\{.*\}|in_flight) (\d+)$", re.MULTILINE)
SLEEPS = re.compile(r"^voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def wheel_of(dist: Path, machine: str) -> Path:
    """Return the relay's wheel; skip where `make dist` made none."""
    found = list(dist.glob(f"ray_mantaray_relay-*_{machine}.whl"))
    if not found:
        pytest.skip(f"`make dist` made no relay for {machine}")
    (wheel,) = found
    return wheel


def emulator(machine: str) -> list[str]:
    """Return what runs a program of this machine here; skip where there is nothing."""
    if machine == platform.machine():
        return []
    program = shutil.which(f"qemu-{machine}-static")
    if program is None:
        pytest.skip(f"there is no qemu-{machine}-static; Debian: qemu-user-static")
    return [program]


def program_of(wheel: Path, directory: Path) -> Path:
    """Unpack the program of a wheel and return it."""
    with zipfile.ZipFile(wheel) as file:
        program = Path(file.extract("mantaray/bin/mantaray-relay", directory))
    program.chmod(0o755)
    return program


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run a relay; yield it and what it said once it served."""
    process = subprocess.Popen(
        [*command, *QUIET, "--log-format=json", "--drain-ms=0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        yield process, json.loads(process.stderr.readline())
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def sleeps_of(pid: int) -> int:
    """Return how often the threads of a process went to sleep."""
    tasks = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(int(SLEEPS.findall(path.read_text())[0]) for path in tasks)


def answered_ping(connection: socket.socket, answers: BinaryIO) -> None:
    """Send a PING and read until its answer is there."""
    connection.sendall((8).to_bytes(3, "big") + bytes([PING_TYPE]) + bytes(5 + 8))
    while True:
        head = answers.read(9)
        answers.read(int.from_bytes(head[:3], "big"))
        if (head[3], head[4]) == (PING_TYPE, ACK):
            return


def first_frame_type(port: int) -> int:
    """Return the type of the first frame that an HTTP/2 server sends."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(PREFACE + NO_SETTINGS)
        head = b""
        while len(head) < 9:
            more = connection.recv(9 - len(head))
            assert more, "the relay closed the connection"
            head += more
    return head[3]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_relay_runs_and_answers(dist: Path, machine: str, tmp_path: Path) -> None:
    wheel = wheel_of(dist, machine)
    command = [*emulator(machine), str(program_of(wheel, tmp_path))]
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"mantaray-relay {wheel.name.split('-')[1]}\n"
    with running(command) as (process, first):
        assert first["event"] == "relaying"
        admin = f"http://127.0.0.1:{first['admin_port']}"
        with _OPENER.open(f"{admin}/status", timeout=60) as response:
            assert json.loads(response.read())["streams"] is not None
        with _OPENER.open(f"{admin}/metrics", timeout=60) as response:
            assert b"\nmantaray_relay_" in response.read()
        assert first_frame_type(int(first["port"])) == SETTINGS_TYPE
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


def test_the_relay_takes_every_call_of_a_burst(dist: Path, tmp_path: Path) -> None:
    """As when thousands of nodes come back at once: gRPC refuses calls at random if it may."""
    program = program_of(wheel_of(dist, platform.machine()), tmp_path)
    count = 6_000
    head = len(CALL).to_bytes(3, "big") + bytes([HEADERS_TYPE, END_HEADERS])
    burst = b"".join(head + (2 * i + 1).to_bytes(4, "big") + CALL for i in range(count))
    with running([str(program)]) as (_, first):
        metrics = f"http://127.0.0.1:{first['admin_port']}/metrics"
        with socket.create_connection(("127.0.0.1", int(first["port"]))) as connection:
            connection.sendall(PREFACE + NO_SETTINGS + burst)
            deadline = time.monotonic() + 60
            taken = 0
            while taken < count and time.monotonic() < deadline:
                time.sleep(0.2)
                with _OPENER.open(metrics, timeout=60) as response:
                    taken = sum(map(int, CALLS.findall(response.read().decode())))
    assert taken == count


def test_what_arrives_is_not_handed_from_thread_to_thread(dist: Path, tmp_path: Path) -> None:
    """A current gRPC does that, and a proxied call costs nearly twice the processor time."""
    program = program_of(wheel_of(dist, platform.machine()), tmp_path)
    with (
        running([str(program)]) as (process, first),
        socket.create_connection(("127.0.0.1", int(first["port"]))) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.sendall(PREFACE + NO_SETTINGS)
        answered_ping(connection, answers)
        before = sleeps_of(process.pid)
        for _ in range(300):
            answered_ping(connection, answers)
        assert (sleeps_of(process.pid) - before) / 300 < 1.6


@pytest.mark.parametrize("machine", MACHINES)
def test_the_relay_needs_no_library(dist: Path, machine: str, tmp_path: Path) -> None:
    from tools.distribution.auditing import needed_libraries

    wheel = wheel_of(dist, machine)
    assert f"manylinux_2_17_{machine}" in wheel.name
    assert needed_libraries(program_of(wheel, tmp_path)) == []


def test_the_relay_runs_on_an_old_system(dist: Path, root: Root, tmp_path: Path) -> None:
    program = program_of(wheel_of(dist, "x86_64"), tmp_path)
    system = root("bullseye", "amd64")
    shutil.copy(program, system / "tmp" / "mantaray-relay")
    with running(["chroot", str(system), "/tmp/mantaray-relay"]) as (_, first):
        assert first_frame_type(int(first["port"])) == SETTINGS_TYPE


@pytest.mark.slow
def test_the_tests_of_the_program_pass(dist: Path, tmp_path: Path) -> None:
    """As users have it: `ray-mantaray[relay]` from `dist`, in an environment of its own."""
    wheel_of(dist, platform.machine())
    run = [sys.executable, "-m", "venv", str(tmp_path / "venv")]
    subprocess.run(run, check=True)
    python = str(tmp_path / "venv/bin/python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*install, "--find-links", str(dist), "ray-mantaray[relay]", "pytest"], check=True
    )
    tests = [python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*tests, "-c", os.devnull, "--rootdir", str(REPOSITORY), str(REPOSITORY / PROGRAM_TESTS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout
