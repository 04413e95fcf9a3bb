"""What a process holds and whether it is idle; its file, and what the command makes of it."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from mantaray.cli.main import main
from mantaray.errors import StartError
from mantaray.gc.model import Collection, Counts, Kind
from mantaray.gc.policy import check_for_start, handing_on, is_wanted, read_policy
from mantaray.gc.process import Activity, Blocks, Buffers, runs_task_in_a_thread
from mantaray.gc.stat import running_sessions
from mantaray.gc.telemetry import StateFile
from mantaray.settings import SettingError


def test_buffer_without_numpy_counts_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    buffers = Buffers()
    value = buffers.watch([b"abc"])
    assert value == [b"abc"]
    del value
    assert len(buffers) == 1


def test_buffer_counts_as_long_as_something_lies_in_it() -> None:
    numpy = pytest.importorskip("numpy")
    buffers = Buffers()
    source = numpy.arange(10, dtype=numpy.uint8)
    source.flags.writeable = False
    (watched,) = buffers.watch([source])
    view = numpy.frombuffer(watched, dtype=numpy.uint16)[1:]
    assert not view.flags.writeable
    del watched
    assert len(buffers) == 1
    del view
    assert len(buffers) == 0


@dataclass
class Clocks:
    """Stands in for the module `time`. How much of the machine this process gets is not ours to say.

    Attributes:
        now: of the monotonic clock, in seconds.
        used: what the process has used of a core, in seconds.
        own: what the asking thread has used of it, in seconds.
    """

    now: float = 1_000.0
    used: float = 10.0
    own: float = 1.0

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.used

    def thread_time(self) -> float:
        return self.own

    def passes(self, seconds: float, used: float = 0.0, own: float = 0.0) -> None:
        """Let time pass, of which the process used so much, and the asking thread that part of it."""
        self.now += seconds
        self.used += used
        self.own += own


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The clocks that a process's activity is judged by."""
    clocks = Clocks()
    monkeypatch.setattr("mantaray.gc.process.time", clocks)
    return clocks


@dataclass
class Heap:
    """A heap whose blocks take a while to count.

    Attributes:
        now: of the clock, in seconds.
        blocks, rss_bytes: what there is.
        takes_s: how long counting takes, in seconds.
        counted: how often the blocks were counted.
    """

    now: float = 0.0
    blocks: int = 30_000_000
    rss_bytes: int = 5_000_000_000
    takes_s: float = 0.015
    counted: int = 0

    def count(self) -> int:
        self.now += self.takes_s
        self.counted += 1
        return self.blocks

    def blocks_of(self) -> Blocks:
        return Blocks(lambda: self.rss_bytes, lambda: self.now, self.count)


def test_blocks_of_a_large_heap_are_not_counted_at_every_look() -> None:
    heap = Heap()
    blocks = heap.blocks_of()
    for _ in range(500):
        assert blocks() == 30_000_000
        heap.now += 0.02
    assert heap.counted == 1
    heap.now += 30
    heap.blocks = 31_000_000
    assert blocks() == 31_000_000


def test_heap_that_grows_or_shrinks_is_counted_at_once() -> None:
    heap = Heap()
    blocks = heap.blocks_of()
    blocks()
    for factor in (2, 0.4):
        heap.rss_bytes, heap.blocks = int(heap.rss_bytes * factor), int(heap.blocks * factor)
        assert blocks() == heap.blocks


def test_blocks_are_counted_where_no_descriptor_is_left() -> None:
    def fail() -> int:
        raise OSError("Too many open files")

    assert Blocks(fail, count=lambda: 7)() == 7


def test_blocks_of_a_small_heap_are_counted_as_good_as_always() -> None:
    heap = Heap(blocks=100_000, rss_bytes=50_000_000, takes_s=5e-6)
    blocks = heap.blocks_of()
    blocks()
    heap.now += 0.02
    heap.blocks = 200_000
    assert blocks() == 200_000


def test_process_is_not_idle_before_it_was_watched_for_long_enough(clocks: Clocks) -> None:
    activity = Activity()
    clocks.passes(100)
    assert not activity.is_idle(0.2, is_worker=False)
    clocks.passes(0.1)
    assert not activity.is_idle(0.2, is_worker=False)
    clocks.passes(0.11)
    assert activity.is_idle(0.2, is_worker=False)


def test_process_is_not_idle_after_a_touch_or_at_work(clocks: Clocks) -> None:
    activity = Activity()
    clocks.passes(100)
    activity.is_idle(0.2, is_worker=False)
    clocks.passes(0.3)
    activity.touch()
    clocks.passes(0.15)
    assert not activity.is_idle(0.2, is_worker=False)
    clocks.passes(0.3)
    assert activity.is_idle(0.2, is_worker=False)
    clocks.passes(0.3, used=0.1)
    assert not activity.is_idle(0.2, is_worker=False)
    # What the collector itself takes is no work of the process.
    clocks.passes(0.3, used=0.25, own=0.25)
    assert activity.is_idle(0.2, is_worker=False)


def test_work_of_another_thread_shows_in_the_clocks() -> None:
    activity = Activity()
    activity.is_idle(60, is_worker=False)
    used: list[float] = []

    def work() -> None:
        while time.thread_time() < 0.1:
            pass
        used.append(time.thread_time())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    activity.is_idle(60, is_worker=False)
    assert activity._cpu[-1][1] - activity._cpu[0][1] >= 0.9 * used[0]


def test_main_thread_outside_the_main_loop_runs_a_task() -> None:
    seen: list[bool] = []
    go_on: list[bool] = []

    def look() -> None:
        while not go_on:
            time.sleep(0.001)
        time.sleep(0.05)
        seen.append(runs_task_in_a_thread())

    def main_loop() -> None:
        threading.Thread(target=look).start()
        go_on.append(True)
        # No call of a function of Python: its frame would be the one on top.
        while len(seen) < 2:
            pass

    thread = threading.Thread(target=look)
    thread.start()
    go_on.append(True)
    thread.join()
    go_on.clear()
    main_loop()
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MANTARAY_GC_TIME_SHARE", "0"),
        ("MANTARAY_GC_TIME_SHARE", "1.5"),
        ("MANTARAY_GC_SHORT_PAUSE_MS", "-1"),
        ("MANTARAY_GC_IDLE_DELAY_MS", "99"),
        ("MANTARAY_GC_RSS_LIMIT_BYTES", "0"),
        ("MANTARAY_GC_HUGE_PAGES", "never"),
    ],
)
def test_bad_setting_is_named_with_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"{name} is set to '{value}'; allowed:"):
        read_policy({name: value})


def test_settings_become_a_policy() -> None:
    policy = read_policy(
        {
            "MANTARAY_GC_TIME_SHARE": "0.1",
            "MANTARAY_GC_SHORT_PAUSE_MS": "5",
            "MANTARAY_GC_IDLE_DELAY_MS": "500",
            "MANTARAY_GC_RSS_LIMIT_BYTES": "1000",
            "MANTARAY_GC_HUGE_PAGES": "0",
        }
    )
    assert (policy.time_share, policy.short_pause_s) == (0.1, 0.005)
    assert (policy.idle_s, policy.rss_limit_bytes) == (0.5, 1000)
    assert not policy.collapses_pages


def test_bad_knob_of_upstream_stops_a_start_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_start_python_gc_manager_thread", "perhaps")
    with pytest.raises(StartError, match="RAY_start_python_gc_manager_thread is set to 'perhaps'"):
        check_for_start()


def test_knob_in_the_system_config_reaches_the_node_and_not_its_gcs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "RAY_start_python_gc_manager_thread"
    monkeypatch.delenv(name, raising=False)
    config = {"start_python_gc_manager_thread": False, "other": 1}
    with handing_on(config):
        assert config == {"other": 1}
        assert os.environ[name] == "false"
    assert name not in os.environ
    assert not is_wanted()
    with handing_on({}):
        assert is_wanted()
    with pytest.raises(StartError), handing_on({"start_python_gc_manager_thread": "perhaps"}):
        pass


def test_state_of_a_process_is_shown_until_it_ends(tmp_path: Path) -> None:
    file = StateFile(str(tmp_path), is_driver=True, node_id="a1")
    counts = Counts(triggers=3, coalesced=1)
    counts.add(Collection(Kind.FULL, "idle", 0.35, 1_200, 40))
    assert file.update(counts, "up to date", None) is False
    assert file.update(counts, "up to date", None) is False
    counts.triggers += 1
    assert file.update(counts, "up to date", None) is True

    arguments = ["gc", "stat", "--dir", str(tmp_path)]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0
    row = shown.output.splitlines()[1]
    assert row.split()[:11] == [
        str(os.getpid()),
        "3",
        "1",
        "0",
        "0",
        "1",
        "0.0",
        "0.0",
        "350.0",
        "1,200",
        "40",
    ]
    (told,) = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert told["driver"] is True
    assert told["longest_full_s"] == 0.35

    stale = json.loads(file.path.read_text())
    file.path.write_text(json.dumps({**stale, "start_ticks": 1}))
    shown = CliRunner().invoke(main, arguments)
    assert "asked no process" in shown.output
    file.remove()
    assert not file.path.exists()


def test_sessions_are_those_of_the_running_raylets(tmp_path: Path) -> None:
    for number, line in enumerate(
        [
            b"/x/raylet\0--session-name=1\0--session_dir=/tmp/ray/session_1\0",
            b"/x/raylet\0--version\0",
            b"/x/other\0--session_dir=/tmp/ray/session_2\0",
        ],
        1,
    ):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cmdline").write_bytes(line)
    assert running_sessions(str(tmp_path)) == ["/tmp/ray/session_1"]
