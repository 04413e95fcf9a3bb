"""The relay's program as operators meet it: help, exit status, log, what it needs to run."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mantaray.syncer import relay_program

OPTIONS = Path(__file__).resolve().parents[3] / "src/mantaray/relay/options.cc"
# Everything else is inside.
ALLOWED_LIBRARIES = re.compile(
    r"(libc|libm|libstdc\+\+|libgcc_s|libpthread|libdl|librt|ld-linux-[\w-]+)\.so\.\d+"
)
QUIET = ("--upstream=127.0.0.1:1", "--listen=127.0.0.1:0", "--admin-listen=", "--drain-ms=0")


def ended(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `mantaray relay`, which is to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "mantaray.cli", "relay", *options],
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=180,
    )


@contextlib.contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a relay; yield it and its first line, once it serves."""
    process = subprocess.Popen(
        [relay_program(), *QUIET, *options], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        yield process, process.stderr.readline()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def options_that_are_parsed() -> list[str]:
    """Return the options that the relay's parser knows."""
    return re.findall(r'^    \{"([a-z-]+)", (?:true|false),', OPTIONS.read_text(), re.MULTILINE)


def test_help_leaves_no_option_out() -> None:
    names = options_that_are_parsed()
    assert {"upstream", "listen", "window-ms", "suppress-noise", "log-format"} <= set(names)
    done = ended("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name in (*names, "help", "version"):
        assert re.search(rf"^  .*--{name}\b", done.stdout, re.MULTILINE), name
    # And it promises none that there is not.
    promised = re.findall(r"^  --([a-z-]+)", done.stdout, re.MULTILINE)
    assert set(promised) == {*names, "version"}


def test_a_wrong_command_line_is_told_from_other_failures() -> None:
    done = ended("--upstream=127.0.0.1:1", "--colour=blue")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: there is no option '--colour=blue'",
        "hint: mantaray relay --help lists the options",
    ]


def test_tls_without_an_authority_does_not_let_everybody_in(tmp_path: Path) -> None:
    tls = {"RAY_USE_TLS": "TRUE", "RAY_TLS_SERVER_CERT": "/c", "RAY_TLS_SERVER_KEY": "/k"}
    done = ended(*QUIET, **tls)
    assert done.returncode == 2
    assert "error: RAY_USE_TLS is on, but RAY_TLS_CA_CERT is not set; " in done.stderr
    # A file that cannot be read is no matter of the command line.
    done = ended(*QUIET, **tls, RAY_TLS_CA_CERT=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "cannot read /c: No such file or directory" in done.stderr


@pytest.mark.parametrize("option", ["listen", "admin-listen"])
def test_a_taken_address_is_one_sentence(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = ended(*QUIET, f"--{option}={address}")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f'ERROR relay: cannot start reason="cannot listen on {address}' in line


def test_sigterm_is_a_good_end_and_text_is_not_json() -> None:
    with running() as (process, first):
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z INFO relay: relaying listen=127.0.0.1:0 ", first)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert process.stderr is not None
        rest = process.stderr.read().splitlines()
    assert [line.split(" ", 1)[1] for line in rest] == [
        "INFO relay: ending signal=15",
        "INFO relay: ended",
    ]


def test_every_line_for_collectors_is_json() -> None:
    with running("--log-format=json") as (process, first):
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        assert process.stderr is not None
        told = [json.loads(line) for line in (first, *process.stderr.read().splitlines())]
    assert [one["event"] for one in told] == ["relaying", "ending", "ended"]
    assert all({"time", "level", "event"} <= set(one) for one in told)
    # What gRPC says of itself comes as such a line too.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ended(*QUIET, f"--listen=127.0.0.1:{port}", "--log-format=json", "--log-level=debug")
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert told[-1]["event"] == "cannot start"
    assert {one["event"] for one in told[:-1]} == {"grpc"}
    assert any("Address already in use" in one["message"] for one in told[:-1])


def test_the_program_needs_only_the_c_and_cpp_libraries() -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("binutils is not installed")
    done = subprocess.run(
        [readelf, "-dl", relay_program()], capture_output=True, text=True, check=True
    )
    needed = re.findall(r"\(NEEDED\)\s+Shared library: \[(.+)\]", done.stdout)
    # The published one is static and needs not even a loader.
    assert ("libc.so.6" in needed) == ("INTERP" in done.stdout)
    assert [name for name in needed if not ALLOWED_LIBRARIES.fullmatch(name)] == []
