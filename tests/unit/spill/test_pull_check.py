"""The library that is preloaded into raylets, in a process that is started as a raylet is."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mantaray._native import spill
from mantaray.spill.pull_check import preloaded

from mantaray.spill import node_lock

from .engines import flip_byte, make_engine, make_node, make_objects

# Opens files as the raylet does, and tells what its own children would inherit.
_PROGRAM = """
import ctypes, json, os, subprocess, sys
library = ctypes.CDLL(None, use_errno=True)
outcomes = []
for function in (library.fopen, library.fopen64):
    function.restype = ctypes.c_void_p
    for path in sys.argv[1:]:
        ctypes.set_errno(0)
        outcomes.append([function(path.encode(), b"rb") is not None, ctypes.get_errno()])
print(json.dumps({
    "outcomes": outcomes,
    "preload": os.environ.get("LD_PRELOAD"),
    "mapped": "mantaray-pull-check" in open("/proc/self/maps").read(),
    "descriptors": [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{fd}")],
}))
"""


@pytest.fixture
def raylet(tmp_path: Path) -> Path:
    """A program of the raylet's name."""
    path = tmp_path / "raylet"
    path.symlink_to(os.path.realpath(sys.executable))
    return path


def run(program: Path, state: Path, *paths: str, env: dict[str, str] | None = None) -> Any:
    """Start the program as Ray starts a raylet; return what it prints."""
    services: Any = SimpleNamespace(ConsolePopen=subprocess.Popen)
    with preloaded(services, str(state)), node_lock.inherited_by_children(services, []):
        process = services.ConsolePopen(
            [str(program), "-I", "-c", _PROGRAM, *paths], env=env, stdout=subprocess.PIPE
        )
        told, _ = process.communicate()
    assert services.ConsolePopen is subprocess.Popen
    return json.loads(told)


def test_a_raylet_opens_sound_objects_only_and_notes_the_others(
    tmp_path: Path, raylet: Path
) -> None:
    engine = make_engine(make_node(tmp_path / "spill"))
    state = tmp_path / "state"
    state.mkdir()
    objects = make_objects(3, 200_000)
    urls = engine.spill(objects)
    flip_byte(urls[1], 100_000)
    paths = [url.decode().partition("?")[0] for url in urls]
    os.unlink(paths[2])
    told = run(raylet, state, "/proc/self/stat", *paths)
    expected = [[True, 0], [True, 0], [False, errno.EIO], [False, errno.ENOENT]]
    assert told["outcomes"] == expected * 2
    assert told["mapped"]
    # What it starts in turn runs without the library, and the file in memory is closed.
    assert told["preload"] is None
    assert not any("mantaray-pull-check" in name for name in told["descriptors"])
    notes = {path.name: path.read_text() for path in state.iterdir()}
    assert set(notes) == {spill.PULL_NOTE_PREFIX + objects[i][0].hex() for i in (1, 2)}
    for i, words in ((1, "checksum mismatch"), (2, "No such file")):
        url, problem = notes[spill.PULL_NOTE_PREFIX + objects[i][0].hex()].splitlines()
        assert url == urls[i].decode()
        assert words in problem


def test_a_library_that_the_user_preloads_stays(tmp_path: Path, raylet: Path) -> None:
    other = "/nowhere/libother.so"
    told = run(raylet, tmp_path, env={**os.environ, "LD_PRELOAD": other})
    assert told["mapped"]
    assert told["preload"] == other


def test_other_programs_do_not_get_the_library(tmp_path: Path) -> None:
    told = run(Path(sys.executable), tmp_path)
    assert not told["mapped"]
    assert told["preload"] is None


def test_a_raylet_starts_without_the_check_where_there_are_no_files_in_memory(
    tmp_path: Path, raylet: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> int:
        raise OSError("make a file in memory: Permission denied")

    monkeypatch.setattr(spill, "open_pull_check_library", refuse)
    told = run(raylet, tmp_path)
    assert not told["mapped"]
    assert "without a check" in caplog.text
