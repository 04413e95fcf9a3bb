"""Lost objects on a real engine: who is told, and what is put back. Ray's side is played by the test."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mantaray._native import spill
from mantaray.spill.damage import Whereabouts
from mantaray.spill.recovery import LostObject, Recovery

from mantaray.spill import damage

from .engines import METADATA, OWNER, flip_byte, make_engine, make_node, make_objects

NODE_ID = "ab" * 28


class Ref:
    """What Ray calls an ObjectRef."""

    def __init__(self, object_id: bytes) -> None:
        self._object_id = object_id

    def binary(self) -> bytes:
        return self._object_id

    def hex(self) -> str:
        return self._object_id.hex()


class Ray:
    """The owner, the local store and the GCS."""

    def __init__(self) -> None:
        self.known = Whereabouts(wanted=True, pending=False, nodes=frozenset())
        self.store: dict[bytes, tuple[bytes, bytes]] = {}
        self.reports: list[dict[bytes, bytes]] = []
        self.errors: list[bytes] = []
        self.asked: list[bytes] = []
        self.may_report = threading.Event()
        self.may_report.set()

    def get_if_local(self, refs: Any) -> list[Any]:
        return [self.store.get(ref.binary(), (None, None)) for ref in refs]

    def report_lost(self, lost: dict[bytes, bytes]) -> set[bytes]:
        self.reports.append(dict(lost))
        assert self.may_report.wait(60)
        return set(lost)

    def ask_for_copy(self, node_id: bytes, object_id: bytes, own_node_id: bytes) -> bool:
        self.asked.append(node_id)
        return True


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    played = Ray()
    monkeypatch.setattr(damage, "whereabouts", lambda owner, object_id: played.known)
    monkeypatch.setattr(damage, "report_lost", played.report_lost)
    monkeypatch.setattr(damage, "ask_for_copy", played.ask_for_copy)
    monkeypatch.setattr(damage, "store_error", lambda put, ref: played.errors.append(ref.binary()))
    monkeypatch.setattr(damage, "is_a_result", lambda metadata: not metadata.isdigit())
    return played


@pytest.fixture
def engine(tmp_path: Path) -> spill.Engine:
    return make_engine(make_node(tmp_path))


@pytest.fixture
def recovery(ray: Ray, engine: spill.Engine) -> Iterator[Recovery]:
    made = Recovery(engine, ray.get_if_local, lambda *_: None, node_id=NODE_ID, state_directory="")
    yield made
    made.close()


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def lose(engine: spill.Engine) -> tuple[Ref, str, bytes]:
    """Spill an object and flip a byte of it; return it with its URL and its payload."""
    ((object_id, _, _, payload),) = objects = make_objects(1, 5000)
    url = engine.spill(objects)[0].decode()
    path, _, query = url.partition("?offset=")
    with open(path, "r+b") as file:
        file.seek(int(query.partition("&")[0]) + 1000)
        file.write(os.urandom(16))
    with pytest.raises(spill.SpillDamageError):
        engine.open(url, object_id)
    assert isinstance(payload, bytes)
    return Ref(object_id), url, payload


def read(engine: spill.Engine, url: str, ref: Ref) -> bytes | None:
    try:
        reader = engine.open(url, ref.binary())
    except FileNotFoundError:
        return None
    buffer = bytearray(reader.payload_bytes)
    reader.readinto(buffer)
    return bytes(buffer)


def test_the_owner_is_told_once_and_what_is_rebuilt_is_put_back(
    ray: Ray, engine: spill.Engine, recovery: Recovery
) -> None:
    ref, url, payload = lose(engine)
    recovery.lost(ref, url, "damaged")
    recovery.lost(ref, url, "damaged")
    assert wait_for(lambda: bool(ray.reports))
    ray.store[ref.binary()] = (payload, METADATA)
    assert wait_for(lambda: read(engine, url, ref) == payload)
    assert ray.reports == [{ref.binary(): OWNER}]
    assert ray.errors == []


def test_an_owner_that_rebuilds_already_is_not_told(
    ray: Ray, engine: spill.Engine, recovery: Recovery
) -> None:
    ray.known = Whereabouts(wanted=True, pending=True, nodes=frozenset())
    ref, url, payload = lose(engine)
    ray.store[ref.binary()] = (payload, METADATA)
    recovery.lost(ref, url, "damaged")
    assert wait_for(lambda: read(engine, url, ref) == payload)
    assert ray.reports == []


def test_what_nobody_refers_to_any_more_is_forgotten(
    ray: Ray, engine: spill.Engine, recovery: Recovery
) -> None:
    ray.known = Whereabouts(wanted=False, pending=False, nodes=frozenset())
    ref, url, _ = lose(engine)
    recovery.lost(ref, url, "damaged")
    assert wait_for(lambda: not recovery._objects)
    assert ray.reports == []


def test_a_copy_on_another_node_is_asked_for(
    ray: Ray, engine: spill.Engine, recovery: Recovery
) -> None:
    other, own = b"o" * 28, bytes.fromhex(NODE_ID)
    ray.known = Whereabouts(wanted=True, pending=False, nodes=frozenset({other, own}))
    ref, url, _ = lose(engine)
    recovery.lost(ref, url, "damaged")
    assert wait_for(lambda: ray.asked == [other])
    assert ray.reports == []


def test_a_word_of_ray_that_the_object_is_lost_is_not_put_back(
    ray: Ray, engine: spill.Engine, recovery: Recovery
) -> None:
    ref, url, _ = lose(engine)
    ray.store[ref.binary()] = (b"", b"11")
    recovery.lost(ref, url, "damaged")
    assert wait_for(lambda: not recovery._objects)
    assert read(engine, url, ref) is None


def test_many_objects_lost_at_once_take_one_report_or_two(
    ray: Ray, engine: spill.Engine, recovery: Recovery
) -> None:
    lost = [lose(engine) for _ in range(20)]
    for ref, url, _ in lost:
        recovery.lost(ref, url, "damaged")
    assert wait_for(lambda: sum(map(len, ray.reports)) == 20)
    assert len(ray.reports) <= 3


def test_what_is_rebuilt_while_its_owner_is_still_being_told_is_put_back(
    ray: Ray, engine: spill.Engine, recovery: Recovery
) -> None:
    ref, url, payload = lose(engine)
    ray.may_report.clear()
    recovery.lost(ref, url, "damaged")
    assert wait_for(lambda: bool(ray.reports))
    ray.store[ref.binary()] = (payload, METADATA)
    put_back = wait_for(lambda: read(engine, url, ref) == payload)
    ray.may_report.set()
    assert put_back


def test_a_worker_that_ends_reports_only_when_another_one_watches(
    ray: Ray, engine: spill.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rays_module = SimpleNamespace(ObjectRef=lambda object_id, **_: Ref(object_id))
    monkeypatch.setitem(sys.modules, "ray", rays_module)
    ref, url, payload = lose(engine)

    def started() -> Recovery:
        return Recovery(
            engine,
            ray.get_if_local,
            lambda *_: None,
            node_id=NODE_ID,
            state_directory=str(tmp_path / "state"),
        )

    ends = started()
    others_ref, others_url, _ = lose(engine)
    ray.known = Whereabouts(wanted=True, pending=True, nodes=frozenset())
    ends.lost(others_ref, others_url, "damaged, too")
    time.sleep(0.1)
    ray.known = Whereabouts(wanted=True, pending=False, nodes=frozenset())
    ray.may_report.clear()
    leaving = threading.Thread(target=ends.leave_to_others, args=(ref, url, OSError("damaged")))
    leaving.start()
    assert wait_for(lambda: any((tmp_path / "state").glob("lost-*")))
    # Its own watching thread, which looks five times a second, does not take it.
    time.sleep(0.5)
    assert len(list((tmp_path / "state").glob("lost-*"))) == 2
    assert ray.reports == []
    other = started()
    assert wait_for(lambda: bool(ray.reports))
    ray.store[ref.binary()] = (payload, METADATA)
    put_back = wait_for(lambda: read(engine, url, ref) == payload)
    ray.may_report.set()
    leaving.join()
    assert wait_for(lambda: not any((tmp_path / "state").glob("lost-*")))
    other.close()
    ends.close()
    assert put_back


def test_the_state_directory_is_listed_only_after_a_change(
    ray: Ray, engine: spill.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rays_module = SimpleNamespace(ObjectRef=lambda object_id, **_: Ref(object_id))
    monkeypatch.setitem(sys.modules, "ray", rays_module)
    state = tmp_path / "state"
    state.mkdir()
    listed = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.listdir" and arguments == (str(state),):
            listed.append(event)

    sys.addaudithook(hook)
    recovery = Recovery(
        engine, ray.get_if_local, lambda *_: None, node_id=NODE_ID, state_directory=str(state)
    )
    time.sleep(0.5)
    before = len(listed)
    # The watching thread looks five times a second, as the case below shows that it still does.
    time.sleep(1.0)
    assert len(listed) == before > 0
    ref, url, _ = lose(engine)
    recovery._write_case(LostObject(ref, url, "damaged", 0.0, 0.0))
    assert wait_for(lambda: not any(state.glob("lost-*")))
    recovery.close()


def test_a_rebuilt_copy_is_written_when_the_disk_has_room_again(
    ray: Ray, engine: spill.Engine, recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, url, payload = lose(engine)
    refused = []

    def full(url: str, item: Any) -> None:
        refused.append(url)
        raise spill.SpillNoSpaceError("no room")

    class Full:
        replace = staticmethod(full)

        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

    monkeypatch.setattr(recovery, "_engine", Full())
    ray.store[ref.binary()] = (payload, METADATA)
    recovery.lost(ref, url, "damaged")
    assert wait_for(lambda: bool(refused))
    monkeypatch.setattr(recovery, "_engine", engine)
    assert wait_for(lambda: read(engine, url, ref) == payload)


def test_what_the_raylet_found_damaged_or_lost_is_looked_at_and_its_owner_told(
    ray: Ray, engine: spill.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rays_module = SimpleNamespace(ObjectRef=lambda object_id, **_: Ref(object_id))
    monkeypatch.setitem(sys.modules, "ray", rays_module)
    state = tmp_path / "state"
    state.mkdir()
    objects = make_objects(3, 200_000)
    damaged, lost, sound = urls = engine.spill(objects)
    flip_byte(damaged, 100_000)
    os.unlink(lost.decode().partition("?")[0])
    for (object_id, *_), url in zip(objects, urls, strict=True):
        note = state / f"{spill.PULL_NOTE_PREFIX}{object_id.hex()}"
        note.write_text(f"{url.decode()}\nwhat was wrong\n")
    recovery = Recovery(
        engine, ray.get_if_local, lambda *_: None, node_id=NODE_ID, state_directory=str(state)
    )
    # This engine keeps no book of owners, so the owner of the file that is gone is not known.
    assert wait_for(lambda: bool(ray.reports and ray.errors))
    recovery.close()
    assert ray.reports == [{objects[0][0]: OWNER}]
    assert ray.errors == [objects[1][0]]
    assert list(state.glob(f"*{spill.PULL_NOTE_PREFIX}*")) == []
    # No other process reads the damaged file again, and what nothing is wrong with stays.
    assert not os.path.exists(damaged.decode().partition("?")[0])
    assert os.path.exists(sound.decode().partition("?")[0])
