"""The end of files of every shape. The names are the list of damages and oddities survived."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mantaray.logs import NotALogFileError, reading, tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "job.log"


def plain_tail(data: bytes, lines: int, max_chars: int, rewrites: str = "last") -> str:
    """What `tail` is to return, by the simplest means, of a file that is read whole."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    result = []
    for line in text.split("\n"):
        states = [state for state in line.split("\r") if state]
        collapsed = (states or [""])[-1] if "\r" in line else line
        result.append((line if rewrites == "all" else collapsed) + "\n")
    result[-1] = result[-1][:-1]
    if text.endswith("\n") or not text:
        result.pop()
    return (
        "".join(result[len(result) - min(lines, len(result)) :])[-max_chars:] if max_chars else ""
    )


PIECES = st.lists(
    st.sampled_from(
        [
            b"a",
            b"bc",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            "ä€😀".encode(),
            b"\xff",
            b"\xe2\x82",
            b"\x0c",
        ]
    ),
    max_size=60,
)


@given(pieces=PIECES, lines=st.integers(0, 8), max_chars=st.integers(0, 40))
@pytest.mark.parametrize("rewrites", ["last", "all"])
def test_same_as_reading_it_whole(
    rewrites: str,
    pieces: list[bytes],
    lines: int,
    max_chars: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-{rewrites}.log"
    data = b"".join(pieces)
    path.write_bytes(data)
    expected = plain_tail(data, lines, max_chars, rewrites)
    assert tail(path, lines, max_chars, rewrites=rewrites) == expected


@given(pieces=PIECES, block_bytes=st.integers(1, 7), lines=st.integers(1, 8))
def test_characters_and_line_ends_across_block_edges(
    pieces: list[bytes], block_bytes: int, lines: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "edges.log"
    data = b"".join(pieces)
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_FIRST_BLOCK_BYTES", block_bytes)
        patch.setattr(reading, "_LAST_BLOCK_BYTES", block_bytes)
        whole = plain_tail(data, lines, 1000)
        assert tail(path, lines, 1000) == whole


@given(front=st.integers(1, 40))
def test_front_cut_inside_a_character_shows_no_half_of_it(
    front: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "front.log"
    path.write_bytes(b"x" * front + "😀".encode() * 3000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_REWRITES_BYTES", 0)
        assert tail(path, 5, 100) == "😀" * 100


def test_empty_file(log: Path) -> None:
    log.write_bytes(b"")
    assert tail(log) == ""


def test_missing_file_directory_and_pipe_are_errors_and_do_not_hang(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tail(tmp_path / "missing")
    with pytest.raises(NotALogFileError):
        tail(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotALogFileError):
        tail(tmp_path / "pipe")


def test_file_of_somebody_else_is_a_permission_error(log: Path) -> None:
    log.write_text("secret\n")
    log.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(PermissionError):
            tail(log)
    finally:
        os.seteuid(user)


def test_negative_numbers_are_refused(log: Path) -> None:
    log.write_text("a\n")
    for wrong in ({"lines": -1}, {"max_chars": -1}, {"rewrites": "none"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            tail(log, **wrong)  # type: ignore[arg-type]


def test_progress_bar_shows_its_last_state(log: Path) -> None:
    bars = "".join(f"\r{percent}% |{'#' * (percent // 10):<10}|" for percent in range(101))
    log.write_text(f"start\n{bars}\ndone\n")
    assert tail(log, 3) == "start\n100% |##########|\ndone\n"
    assert tail(log, 2, rewrites="all") == bars + "\ndone\n"


def test_sparse_file_of_ten_gigabytes_takes_no_memory(log: Path) -> None:
    with log.open("wb") as file:
        file.seek(10 << 30)
        file.write(b"\nthe end\n")
    tracemalloc.start()
    assert tail(log, 1) == "the end\n"
    assert len(tail(log, 5)) == 20_000
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 20_000_000


def test_one_endless_rewritten_line_reads_no_more_than_its_budget(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with log.open("wb") as file:
        for _ in range(64):
            file.write(b"\r 50% working" * 100_000)
        file.write(b"\r100% done")
    read_bytes = []
    pread = os.pread

    def counted(fd: int, size_bytes: int, offset: int) -> bytes:
        read_bytes.append(size_bytes)
        return pread(fd, size_bytes, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert tail(log, 10) == "100% done"
    assert sum(read_bytes) <= 4 * 20_001 + (1 << 20)


def test_file_truncated_while_it_is_read_is_read_again(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write_text("old line\n" * 100_000)
    pread = os.pread

    def truncating(fd: int, size_bytes: int, offset: int) -> bytes:
        monkeypatch.setattr(os, "pread", pread)
        log.write_text("new\n")
        return pread(fd, size_bytes, offset)

    monkeypatch.setattr(os, "pread", truncating)
    assert tail(log, 3) == "new\n"


def test_file_that_keeps_shrinking_still_ends(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_text("line\n" * 1000)
    monkeypatch.setattr(os, "pread", lambda fd, size_bytes, offset: b"")
    assert tail(log, 3) == ""


def test_earlier_rotated_files_follow_when_the_current_one_is_short(log: Path) -> None:
    log.write_text("7\n8\n")
    Path(f"{log}.1").write_text("4\n5\n6\n")
    Path(f"{log}.2").write_text("1\n2\n3")
    assert tail(log, 1) == "8\n"
    assert tail(log, 4) == "5\n6\n7\n8\n"
    assert tail(log, 100) == "1\n2\n3\n4\n5\n6\n7\n8\n"
    assert tail(log, 100, rotated=False) == "7\n8\n"
    assert tail(log, 100, max_chars=6) == "6\n7\n8\n"


def test_windows_line_ends_are_line_ends_not_rewrites(log: Path) -> None:
    log.write_bytes(b"one\r\ntwo\r\n")
    assert tail(log, 2) == "one\ntwo\n"
