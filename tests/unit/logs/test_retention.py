"""Old logs are removed, oldest first, and never one that a living process has open."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from mantaray.cli.main import main
from mantaray.helpers import python_command
from mantaray.logs import retention
from mantaray.logs.retention import Limits, clean, find_logs

NOW_S = 1_700_000_000.0
SIZE_BYTES = 64 << 10
HOLDER = """
import sys, time
files = [open(sys.argv[1], "a"), open(sys.argv[2])]
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A directory with ten logs of 64 KiB, log-0 the oldest, each an hour older than the next."""
    for number in range(10):
        path = tmp_path / ("old" if number % 3 == 0 else "") / f"log-{number}.out"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * SIZE_BYTES)
        os.utime(path, (NOW_S, NOW_S - 3600 * (10 - number)))
    return tmp_path


def left(logs: Path) -> list[int]:
    """Return the numbers of the logs that are still there."""
    return sorted(int(path.stem.split("-")[1]) for path in logs.rglob("log-*"))


@pytest.fixture
def holder(logs: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the oldest log open for writing, and the next for reading."""
    names = [str(logs / name) for name in ("old/log-0.out", "log-1.out")]
    command = [sys.executable, "-c", HOLDER, *names]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_without_limits_everything_stays(logs: Path) -> None:
    assert clean([str(logs)], Limits(), now_s=NOW_S) == []
    assert left(logs) == list(range(10))


def test_the_oldest_go_until_the_rest_fits(logs: Path) -> None:
    verdicts = clean([str(logs)], Limits(max_bytes=4 * SIZE_BYTES), now_s=NOW_S)
    assert left(logs) == [6, 7, 8, 9]
    assert [verdict.log.path[-9:-4] for verdict in verdicts] == [f"log-{n}" for n in range(6)]
    assert all(verdict.removed for verdict in verdicts)


def test_what_is_too_old_goes_although_there_is_room(logs: Path) -> None:
    clean([str(logs)], Limits(max_age_s=3 * 3600 + 1), now_s=NOW_S)
    assert left(logs) == [7, 8, 9]


def test_dry_run_tells_the_same_and_removes_nothing(logs: Path) -> None:
    limits = Limits(max_bytes=4 * SIZE_BYTES)
    told = clean([str(logs)], limits, dry_run=True, now_s=NOW_S)
    assert left(logs) == list(range(10))
    assert told == clean([str(logs)], limits, now_s=NOW_S)


def test_log_that_a_living_process_has_open_stays(
    logs: Path, holder: subprocess.Popen[bytes]
) -> None:
    verdicts = clean([str(logs)], Limits(max_bytes=1), now_s=NOW_S)
    assert left(logs) == [0, 1]
    kept = [verdict for verdict in verdicts if not verdict.removed]
    assert [verdict.why for verdict in kept] == ["a process has it open"] * 2
    holder.kill()
    holder.wait()
    clean([str(logs)], Limits(max_bytes=1), now_s=NOW_S)
    assert left(logs) == []


def test_open_logs_count_so_that_others_go_instead(
    logs: Path, holder: subprocess.Popen[bytes]
) -> None:
    clean([str(logs)], Limits(max_bytes=4 * SIZE_BYTES), now_s=NOW_S)
    assert left(logs) == [0, 1, 8, 9]


def test_open_files_are_searched_where_the_kernel_grants_no_lease(
    logs: Path, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_is_open_elsewhere", lambda fd: None)
    clean([str(logs)], Limits(max_bytes=1), now_s=NOW_S)
    # Other users cannot look into every process, and then nothing goes.
    assert left(logs) == ([0, 1] if os.geteuid() == 0 else list(range(10)))


def test_log_that_changed_since_it_was_found_stays(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_logs([str(logs)])
    (logs / "log-1.out").write_text("written to meanwhile")
    (logs / "log-2.out").rename(logs / "log-10.out")
    (logs / "log-2.out").write_text("another file of this name")
    monkeypatch.setattr(retention, "find_logs", lambda directories: found)
    clean([str(logs)], Limits(max_bytes=1), now_s=NOW_S)
    assert left(logs) == [1, 2, 10]


def test_links_are_neither_followed_nor_removed(
    logs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "precious"
    outside.write_text("x")
    (logs / "link").symlink_to(outside)
    (logs / "directory").symlink_to(outside.parent)
    clean([str(logs)], Limits(max_bytes=1), now_s=NOW_S)
    assert outside.exists()
    assert (logs / "link").is_symlink()


def test_command_shows_and_then_removes(logs: Path) -> None:
    options = ["logs", "clean", "--dir", str(logs), "--max-bytes", str(8 * SIZE_BYTES)]
    shown = CliRunner().invoke(main, [*options, "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("would remove") == 2
    assert left(logs) == list(range(10))
    done = CliRunner().invoke(main, options)
    assert done.output.count("removed") == 2
    assert left(logs) == list(range(2, 10))


def test_command_without_a_limit_is_an_error_with_a_hint(logs: Path) -> None:
    done = CliRunner().invoke(main, ["logs", "clean", "--dir", str(logs)])
    assert done.exit_code == 1
    assert "error: nothing says how much may stay" in done.output
    assert "hint: give --max-bytes or --max-age-s" in done.output


def test_node_program_cleans_until_its_raylet_ends(logs: Path) -> None:
    raylet = subprocess.Popen(["sleep", "600"])
    environment = {**os.environ, "MANTARAY_LOG_RETENTION_BYTES": str(4 * SIZE_BYTES)}
    command = python_command("mantaray.logs.retain_main", str(raylet.pid), str(logs))
    program = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while left(logs) != [6, 7, 8, 9] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left(logs) == [6, 7, 8, 9]
        assert program.poll() is None
    finally:
        raylet.kill()
        raylet.wait()
    said, _ = program.communicate(timeout=120)
    assert said.count("removed ") == 6
    assert program.returncode == 0
