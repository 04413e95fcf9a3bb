"""Reading spilled objects without Ray's object store: where they lie, and what is left to Ray."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mantaray._native import spill
from mantaray.spill.direct import DirectReader, SpilledData, WorkerWith
from mantaray.spill.links import LinkIndex

from mantaray.spill import direct, state
from tests.unit.spill.engines import METADATA, flip_byte, make_engine, make_node, make_objects

NODE_ID = "ab" * 28


class Ref(NamedTuple):
    """What is used of Ray's references."""

    id: bytes

    def binary(self) -> bytes:
        """Return the id."""
        return self.id


class Owner:
    """What an owner's core worker knows of its objects; asked for one, it says so."""

    def __init__(self) -> None:
        self.spilled: dict[Ref, list[str]] = {}
        self.in_memory: set[Ref] = set()
        self.asked: list[list[Ref]] = []

    def get_local_object_locations(self, refs: list[Ref]) -> dict[Ref, dict[str, Any]]:
        """Answer for objects of this owner."""
        return {
            ref: {"did_spill": True, "node_ids": self.spilled[ref]}
            for ref in refs
            if ref in self.spilled
        }

    def object_exists(self, ref: Ref) -> bool:
        """Say whether the object lies in this node's memory."""
        return ref in self.in_memory

    def get_objects(self, refs: list[Ref], timeout_ms: int) -> list[tuple[Any, ...]]:
        """Return what a raylet would have restored."""
        self.asked.append(refs)
        return [(ref.id, b"restored", timeout_ms) for ref in refs]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's directory."""
    return make_node(tmp_path)


def spill_all(node: Path, count: int, size_bytes: int) -> tuple[Any, list[Any], list[bytes]]:
    """Return an engine, the objects that it spilled in one batch, and their URLs."""
    engine, objects = make_engine(node), make_objects(count, size_bytes)
    return engine, objects, engine.spill(objects)


def test_objects_of_every_batch_are_found_by_their_ids(node: Path) -> None:
    index = LinkIndex([str(node.parent / "gone"), str(node)])
    engine = make_engine(node)
    for size_bytes in (100, 150_000):
        objects = make_objects(3, size_bytes)
        urls = engine.spill(objects)
        for object_, url in zip(objects, urls, strict=True):
            place = index.find(object_[0])
            assert place is not None
            assert f"{place.path}?offset={place.offset}&size={place.object_bytes}" == url.decode()
    assert index.find(os.urandom(28)) is None


def test_objects_of_a_removed_batch_are_forgotten(node: Path) -> None:
    engine, objects, _ = spill_all(node, 2, 1000)
    index = LinkIndex([str(node)])
    place = index.find(objects[0][0])
    assert place is not None
    time.sleep(0.15)  # Time stamps of directories are coarse; see the index.
    shutil.rmtree(Path(place.path).parent)
    assert index.find(os.urandom(28)) is None
    assert index.find(objects[0][0]) is None
    engine.close()


def test_a_node_with_too_many_objects_is_left_to_ray(node: Path) -> None:
    engine, objects, _ = spill_all(node, 3, 1000)
    assert LinkIndex([str(node)], most_objects=2).find(objects[0][0]) is None
    assert LinkIndex([str(node)], most_objects=3).find(objects[0][0]) is not None
    engine.close()


def test_an_object_set_aside_for_damage_is_not_found(node: Path) -> None:
    engine, objects, urls = spill_all(node, 2, 1000)
    flip_byte(urls[0], 200)
    with pytest.raises(spill.SpillDamageError):
        engine.open(urls[0].decode(), objects[0][0])
    index = LinkIndex([str(node)])
    assert index.find(objects[0][0]) is None
    assert index.find(objects[1][0]) is not None


def test_only_what_lies_here_and_not_in_memory_is_read(node: Path) -> None:
    engine, objects, urls = spill_all(node, 5, 150_000)
    read, in_memory, foreign, damaged, deleted = (Ref(object_[0]) for object_ in objects)
    owner = Owner()
    owner.spilled = {ref: [NODE_ID] for ref in (read, in_memory, damaged, deleted)}
    owner.in_memory = {in_memory}
    flip_byte(urls[3], 1000)
    engine.delete([urls[4].decode()])
    reader = DirectReader([str(node)], 1 << 30)
    found = reader.read(owner, [read, in_memory, foreign, damaged, deleted])
    assert set(found) == {read}
    data, metadata = found[read]
    assert (data.to_pybytes(), metadata) == (objects[0][3], METADATA)


def test_objects_beyond_the_bound_are_left_to_ray_until_others_are_released(node: Path) -> None:
    engine, objects, _ = spill_all(node, 2, 150_000)
    owner = Owner()
    refs = [Ref(object_[0]) for object_ in objects]
    owner.spilled = {ref: [] for ref in refs}
    reader = DirectReader([str(node)], 200_000)
    held = reader.read(owner, refs)
    assert set(held) == {refs[0]}
    assert reader.read(owner, refs[1:]) == {}
    held.clear()
    assert set(reader.read(owner, refs[1:])) == {refs[1]}
    engine.close()


def test_a_large_object_is_left_to_ray(node: Path) -> None:
    engine, objects, _ = spill_all(node, 1, 2 << 20)
    small = make_objects(1, 1000)
    engine.spill(small)
    large_ref, small_ref = Ref(objects[0][0]), Ref(small[0][0])
    owner = Owner()
    owner.spilled = {large_ref: [], small_ref: []}
    reader = DirectReader([str(node)], 1 << 30)
    assert set(reader.read(owner, [large_ref, small_ref])) == {small_ref}
    engine.close()


@pytest.mark.parametrize("size", [0, 127, 200, 60_000, 100_000])
def test_a_payload_is_split_as_ray_splits_it(node: Path, size: int) -> None:
    # Ray's header: the length as a MessagePack integer, in nine bytes.
    width = 0 if size < 128 else 1 if size < 256 else 2 if size < 65536 else 4
    sign = {0: b"", 1: b"\xcc", 2: b"\xcd", 4: b"\xce"}[width]
    header = (sign + size.to_bytes(max(width, 1), "big")).ljust(9, b"\xff")
    payload = header + b"m" * size + b"pickled"
    engine = make_engine(node)
    object_id = os.urandom(28)
    engine.spill([(object_id, b"owner", METADATA, payload)])
    place = LinkIndex([str(node)]).find(object_id)
    assert place is not None
    data = SpilledData(spill.read_spilled(*place, object_id, 1 << 30))
    assert data.size == len(payload)
    assert [bytes(part) for part in data.split()] == [b"m" * size, b"pickled"]
    assert not data.split()[
        1
    ].readonly  # Ray's parser takes no other; arrays are read-only all the same.


def test_a_payload_without_rays_header_is_an_error(node: Path) -> None:
    engine = make_engine(node)
    for payload in (b"", b"\xcf" + b"\xff" * 20):
        object_id = os.urandom(28)
        engine.spill([(object_id, b"owner", METADATA, payload)])
        place = LinkIndex([str(node)]).find(object_id)
        assert place is not None
        with pytest.raises(ValueError, match="MessagePack"):
            SpilledData(spill.read_spilled(*place, object_id, 1 << 30)).split()


def test_ray_is_asked_for_the_rest_and_the_order_stays() -> None:
    owner, refs = Owner(), [Ref(bytes([number])) for number in range(4)]

    class Worker:
        core_worker = owner
        mode = "driver"

    worker = WorkerWith(Worker(), {refs[1]: ("data", b"read")}, lambda *fields: fields)
    assert worker.mode == "driver"
    assert worker.core_worker.get_objects([*refs, refs[1]], 7) == [
        (b"\x00", b"restored", 7),
        ("data", b"read", None),
        (b"\x02", b"restored", 7),
        (b"\x03", b"restored", 7),
        ("data", b"read", None),
    ]
    assert owner.asked == [[refs[0], refs[2], refs[3]]]
    assert worker.core_worker.get_objects([refs[1]], 7) == [("data", b"read", None)]
    assert len(owner.asked) == 1


def test_directories_are_published_for_the_other_processes_of_the_node(tmp_path: Path) -> None:
    directory = str(tmp_path / "state" / NODE_ID)
    assert state.published_directories(directory) == []
    state.publish_directories(directory, ["/a", "/b"])
    assert state.published_directories(directory) == ["/a", "/b"]
    assert os.listdir(directory) == ["directories"]
    Path(directory, "directories").write_text("[")
    assert state.published_directories(directory) == []


class Worker:
    """A process that belongs to no session, as in Ray's local mode."""

    node: Any = None
    current_node_id = b"\xab" * 28
    core_worker = None


def test_a_process_without_a_session_leaves_everything_to_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("directories").write_text('["/somewhere"]')
    gets = direct.DirectGets(1 << 20, lambda: True)
    assert gets.read(Worker, [Ref(b"\xcd" * 28)]) == {}


class Node:
    """The node of a process, as far as its session's directory."""

    def __init__(self, session: Path) -> None:
        self.session = session

    def get_session_dir_path(self) -> str:
        """Return the directory."""
        return str(self.session)


def test_the_native_module_is_not_loaded_before_the_node_has_spilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_LOOK_PERIOD_S", 0.0)
    loads: list[int] = []

    def load() -> bool:
        loads.append(1)
        return False

    gets = direct.DirectGets(1 << 20, load)
    worker = Worker()
    worker.node = Node(tmp_path)
    assert gets.read(worker, [Ref(b"\xcd" * 28)]) == {}
    assert loads == []
    directory = state.state_directory_of(worker.node, worker.current_node_id.hex())
    state.publish_directories(directory, [str(tmp_path)])
    assert gets.read(worker, [Ref(b"\xcd" * 28)]) == {}
    assert loads == [1]
