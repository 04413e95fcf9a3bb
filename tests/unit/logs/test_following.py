"""Files that grow, shrink and are replaced while somebody follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mantaray.logs.following import Follower, LineBatches


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
