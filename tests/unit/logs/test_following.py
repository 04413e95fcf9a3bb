"""Files that grow, shrink and are replaced while somebody follows them."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mantaray.logs.following import Follower, LineBatches
from mantaray.logs.patch import LOGS_PATCH
from mantaray.overlay import Installation


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "job.log"


def read_all(follower: Follower) -> str:
    pieces = []
    while piece := follower.read():
        pieces.append(piece)
    return "".join(pieces)


def test_file_that_does_not_exist_yet_begins_when_it_does(log: Path) -> None:
    follower = Follower(str(log))
    assert follower.read() == ""
    log.write_text("here\n")
    assert read_all(follower) == "here\n"
    follower.close()


def test_rotated_and_truncated_files_begin_again(log: Path) -> None:
    log.write_text("first\n")
    follower = Follower(str(log))
    assert read_all(follower) == "first\n"
    with log.open("a") as file:
        file.write("last of the old\n")
    log.rename(f"{log}.1")
    log.write_text("new file\n")
    assert read_all(follower) + read_all(follower) == "last of the old\nnew file\n"
    log.write_text("short\n")
    assert read_all(follower) == "short\n"
    follower.close()


def test_character_written_in_two_halves_comes_whole(log: Path) -> None:
    euro = "€".encode()
    log.write_bytes(b"a" + euro[:1])
    follower = Follower(str(log))
    assert follower.read() == "a"
    with log.open("ab") as file:
        file.write(euro[1:] + b"\n")
    assert follower.read() == "€\n"
    follower.close()


def test_endless_line_comes_in_bounded_pieces(log: Path) -> None:
    log.write_text("x" * 1_000_000)
    follower = Follower(str(log))
    batches = LineBatches(follower)
    seen = 0
    while lines := batches.next():
        assert sum(map(len, lines)) <= LineBatches.MAX_CHARS
        seen += sum(map(len, lines))
    assert seen == 1_000_000
    follower.close()


def test_batches_hold_ten_lines_and_lose_none(log: Path) -> None:
    expected = [f"line {number}\n" for number in range(95)]
    log.write_text("".join(expected))
    follower = Follower(str(log))
    batches = LineBatches(follower)
    sizes, found = [], []
    while lines := batches.next():
        sizes.append(len(lines))
        found += lines
    assert found == expected
    assert sizes == [10] * 9 + [5]
    assert batches.next() is None
    follower.close()


def open_files(log: Path) -> int:
    """Return how many descriptors of this process are files of the log's directory."""
    links = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            links.append(os.readlink(entry.path))
        except FileNotFoundError:
            continue
    return sum(link.startswith(f"{log.parent}/") for link in links)


def test_renamed_log_whose_writer_keeps_its_descriptor_loses_no_line(log: Path) -> None:
    """logrotate's `create`: Ray's job drivers never open their log again."""
    writer = log.open("a")
    follower = Follower(str(log))
    seen = ""
    for number in range(60):
        print(number, file=writer, flush=True)
        if number == 20:
            log.rename(f"{log}.1")
            log.touch()
        if number == 40:
            Path(f"{log}.1").rename(f"{log}.2")
            log.rename(f"{log}.1")
            log.touch()
        if number % 7 == 0:
            seen += read_all(follower)
    writer.close()
    seen += read_all(follower)
    assert seen.split() == [str(number) for number in range(60)]
    follower.close()


def test_renamed_log_is_let_go_when_nobody_writes_to_it(log: Path) -> None:
    writer = log.open("a")
    follower = Follower(str(log))
    print("first", file=writer, flush=True)
    assert read_all(follower) == "first\n"
    print("old", file=writer, flush=True)
    log.rename(f"{log}.1")
    log.write_text("new\n")
    assert read_all(follower) == "old\nnew\n"
    assert open_files(log) == 3, "the writer's and both of the follower's"
    print("last", file=writer, flush=True)
    writer.close()
    assert read_all(follower) == "last\n"
    assert follower.read() == ""
    assert open_files(log) == 1
    follower.close()
    assert open_files(log) == 0


def test_log_rotated_several_times_between_two_looks_loses_no_line(log: Path) -> None:
    log.write_text("0\n")
    follower = Follower(str(log))
    assert read_all(follower) == "0\n"
    for number in range(1, 6):
        for older in range(number, 0, -1):
            if Path(f"{log}.{older}").exists():
                Path(f"{log}.{older}").rename(f"{log}.{older + 1}")
        log.rename(f"{log}.1")
        log.write_text(f"{number}\n")
    assert read_all(follower).split() == ["1", "2", "3", "4", "5"]
    follower.close()


def test_renamed_and_removed_log_is_read_to_its_end(log: Path) -> None:
    writer = log.open("a")
    follower = Follower(str(log))
    print("first", file=writer, flush=True)
    assert read_all(follower) == "first\n"
    log.rename(f"{log}.1")
    log.touch()
    print("second", file=writer, flush=True)
    Path(f"{log}.1").unlink()
    print("third", file=writer, flush=True)
    assert read_all(follower) == "second\nthird\n"
    writer.close()
    follower.close()


def copy_and_truncate(log: Path) -> None:
    """Rotate a log as logrotate's `copytruncate` does."""
    for number in range(8, 0, -1):
        if Path(f"{log}.{number}").exists():
            Path(f"{log}.{number}").rename(f"{log}.{number + 1}")
    shutil.copy(log, f"{log}.1")
    os.truncate(log, 0)


@pytest.mark.parametrize("mode", ["a", "w"])
def test_truncated_log_goes_on_where_it_was_read_to(log: Path, mode: str) -> None:
    """With `w` the writer does not append: what it writes next leaves a hole before it."""
    writer = log.open(mode)
    follower = Follower(str(log))
    seen = ""
    for number in range(400):
        print("line", number, file=writer, flush=True)
        if number % 97 == 50:
            copy_and_truncate(log)
        if number % 13 == 0:
            seen += read_all(follower)
    seen += read_all(follower)
    writer.close()
    assert seen == "".join(f"line {number}\n" for number in range(400))
    follower.close()


def test_truncated_log_that_has_grown_beyond_its_old_end_is_noticed(log: Path) -> None:
    writer = log.open("a")
    follower = Follower(str(log))
    print("old " * 100, file=writer, flush=True)
    first = read_all(follower)
    print("unread", file=writer, flush=True)
    copy_and_truncate(log)
    print("new " * 1000, file=writer, flush=True)
    assert first + read_all(follower) == "old " * 100 + "\nunread\n" + "new " * 1000 + "\n"
    writer.close()
    follower.close()


def test_log_truncated_while_50_mb_are_written_loses_no_line(log: Path) -> None:
    """Truncated between two lines, for what comes between copying and truncating nobody can read."""
    lines, done, seen = 500_000, threading.Event(), []
    turn = threading.Lock()

    def write() -> None:
        with log.open("a") as file:
            for number in range(lines):
                with turn:
                    file.write(f"{number:08d} {'x' * 90}\n")
                    if number % 100_000 == 99_999:
                        file.flush()
                        copy_and_truncate(log)
        done.set()

    follower = Follower(str(log))
    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        seen.append(follower.read())
    writer.join()
    seen.append(read_all(follower))
    follower.close()
    numbers = [line.split()[0] for line in "".join(seen).splitlines()]
    assert numbers == [f"{number:08d}" for number in range(lines)]


def test_closing_during_a_read_leaves_no_descriptor(log: Path) -> None:
    log.write_text("x" * 10_000_000)
    for _ in range(200):
        follower = Follower(str(log))
        reader = threading.Thread(target=read_all, args=(follower,))
        reader.start()
        follower.close()
        reader.join()
        assert follower.read() == ""
        assert open_files(log) == 0


class Client:
    """Stands for Ray's JobLogStorageClient, of which the patch keeps only this."""

    NUM_LOG_LINES_ON_ERROR = 10
    MAX_LOG_SIZE = 20_000

    def __init__(self, log: Path) -> None:
        self._log = log

    def get_log_file_path(self, job_id: str) -> str:
        return str(self._log)

    async def get_last_n_log_lines(self, job_id: str) -> str:
        raise NotImplementedError

    def tail_logs(self, job_id: str) -> AsyncIterator[list[str] | None]:
        raise NotImplementedError


@pytest.fixture
def client(log: Path) -> Client:
    cls: Any = type("PatchedClient", (Client,), dict(vars(Client)))
    (install,) = LOGS_PATCH.installers.values()
    install(SimpleNamespace(JobLogStorageClient=cls), Installation())  # type: ignore[arg-type]
    patched: Client = cls(log)
    return patched


def test_cancelled_tail_leaves_no_descriptor(log: Path, client: Client) -> None:
    log.write_text("line\n" * 2_000_000)

    async def follow() -> None:
        async for _ in client.tail_logs("job"):
            pass

    async def cancel_many() -> None:
        for number in range(100):
            task = asyncio.ensure_future(follow())
            await asyncio.sleep(number % 10 / 2000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancel_many())
    # A thread that was reading lets its file go when it is done.
    deadline = time.monotonic() + 60
    while open_files(log) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert open_files(log) == 0


def test_slow_readers_hold_nobody_up_and_a_truncation_costs_nobody_a_line(
    log: Path, client: Client
) -> None:
    """Twenty readers follow one log, five of whom take their time over each piece."""
    readers, slow, lines = 20, 5, 5_000
    text = "".join(f"{number:08d} {'x' * 50}\n" for number in range(lines))
    log.write_text(text[: len(text) // 2])
    are_through = asyncio.Event()

    async def read(number: int, found: list[str]) -> None:
        async for pieces in client.tail_logs("job"):
            found.extend(pieces or ())
            if number < slow and not are_through.is_set():
                # So slow that it would be the last by far; it reads on when the others are through.
                await are_through.wait()
            if pieces is None:
                if found[-1].endswith("end\n"):
                    return
                await asyncio.sleep(0.01)

    async def read_all_at_once() -> list[list[str]]:
        found: list[list[str]] = [[] for _ in range(readers)]
        tasks = [asyncio.ensure_future(read(number, found[number])) for number in range(readers)]
        while any(not each for each in found):
            await asyncio.sleep(0.01)
        with log.open("a") as file:
            file.write(text[len(text) // 2 :])
            file.flush()
            copy_and_truncate(log)
            file.write("end\n")
        await asyncio.wait_for(asyncio.gather(*tasks[slow:]), 120)
        assert not any(task.done() for task in tasks[:slow])
        are_through.set()
        await asyncio.wait_for(asyncio.gather(*tasks[:slow]), 120)
        return found

    for each in asyncio.run(read_all_at_once()):
        assert "".join(each) == f"{text}end\n"


def test_readers_go_on_while_the_threads_of_the_event_loop_are_taken(
    log: Path, client: Client
) -> None:
    log.write_text("line\n" * 100)
    blocked = threading.Event()

    async def read() -> int:
        loop = asyncio.get_running_loop()
        others = [loop.run_in_executor(None, blocked.wait) for _ in range(64)]
        try:
            count = 0
            async for lines in client.tail_logs("job"):
                if lines is None:
                    return count
                count += len(lines)
            raise AssertionError("it goes on until there is nothing new")
        finally:
            blocked.set()
            await asyncio.gather(*others)

    assert asyncio.run(asyncio.wait_for(read(), 60)) == 100
