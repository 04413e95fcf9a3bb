"""Whole logs as JSON in pieces: the same bytes as Ray's answer, whatever the log holds."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mantaray.logs import NotALogFileError, whole
from mantaray.logs.whole import UndecodableLogError, WholeLog

PIECES = st.lists(
    st.sampled_from(
        [
            *(b"a", b"bc", b"\n", b"\r", b"\r\n", b'"\\', b"\x00\x1b", "ä€😀".encode()),
            *(b"\x7f", b"\xff", b"\xe2\x82", b"\xf0\x9f"),
        ]
    ),
    max_size=40,
)


def answer(path: Path) -> bytes:
    """Return all pieces of a log, as the agent sends them."""
    log = WholeLog(str(path))
    try:
        pieces = []
        while piece := log.read():
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        log.close()


def plain_answer(path: Path) -> bytes:
    """What it is to be, by the simplest means."""
    with open(path) as file:
        return json.dumps({"logs": file.read()}).encode()


@given(pieces=PIECES, block_bytes=st.integers(1, 20))
def test_same_as_reading_it_whole(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], block_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("whole") / "job.log"
    path.write_bytes(b"".join(pieces))
    before = whole._BLOCK_BYTES
    whole._BLOCK_BYTES = block_bytes
    try:
        try:
            expected = plain_answer(path)
        except UnicodeDecodeError as error:
            with pytest.raises(UndecodableLogError) as caught:
                answer(path)
            assert str(caught.value) == str(error)
        else:
            assert answer(path) == expected
    finally:
        whole._BLOCK_BYTES = before


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.touch()
    assert answer(path) == b'{"logs": ""}'


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WholeLog(str(tmp_path / "job.log"))


@pytest.mark.timeout(20)
def test_directory_and_pipe_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(NotALogFileError):
            WholeLog(str(path))


def test_what_is_added_meanwhile_does_not_make_it_endless(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_text("first\n")
    log = WholeLog(str(path))
    said = b""
    while piece := log.read():
        said += piece
        with open(path, "a") as file:
            file.write("more\n" * 1000)
    log.close()
    assert json.loads(said) == {"logs": "first\n"}


def test_truncated_meanwhile_ends_as_whole_json(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_text("x" * 1_000_000)
    log = WholeLog(str(path))
    said = [log.read(), log.read()]
    os.truncate(path, 10)
    while piece := log.read():
        said.append(piece)
    log.close()
    text = json.loads(b"".join(said))["logs"]
    assert set(text) == {"x"}
    assert len(text) < 1_000_000


def test_overwritten_with_no_text_meanwhile_ends_as_whole_json(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_text("x" * 1_000_000)
    log = WholeLog(str(path))
    said = [log.read()]
    path.write_bytes(b"\xff" * 1_000_000)
    while piece := log.read():
        said.append(piece)
    log.close()
    assert json.loads(b"".join(said)) == {"logs": "\ufffd" * 1_000_000}


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    with open(path, "wb") as file:
        for _ in range(30):
            file.write("ä€😀\x00\n".encode() * 80_000)
    tracemalloc.start()
    try:
        log = WholeLog(str(path))
        while log.read():
            pass
        log.close()
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000_000
