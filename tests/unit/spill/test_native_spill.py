"""The native engine as Python sees it: what comes back, and what is raised."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mantaray._native import spill

from .engines import (
    HEADER_BYTES,
    METADATA,
    OWNER,
    flip_byte,
    make_engine,
    make_node,
    make_objects,
)

ID = bytes(range(28))


@pytest.fixture
def engine(tmp_path: Path) -> spill.Engine:
    return make_engine(make_node(tmp_path))


def read(engine: spill.Engine, url: bytes, object_id: bytes) -> bytes:
    reader = engine.open(url.decode(), object_id)
    buffer = bytearray(reader.payload_bytes)
    assert reader.readinto(buffer) == len(buffer)
    return bytes(buffer)


@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 100_000, 5_000_000])
def test_objects_come_back_as_they_were(size_bytes: int, engine: spill.Engine) -> None:
    objects = make_objects(3, size_bytes)
    urls = engine.spill(objects)
    assert len(urls) == 3
    for url, (object_id, _, _, payload) in zip(urls, objects, strict=True):
        reader = engine.open(url.decode(), object_id)
        assert (reader.owner_address, reader.metadata) == (OWNER, METADATA)
        assert read(engine, url, object_id) == payload


def test_an_object_without_payload_comes_back(engine: spill.Engine) -> None:
    (url,) = engine.spill([(ID, OWNER, METADATA, None)])
    reader = engine.open(url.decode(), ID)
    assert (reader.metadata, reader.payload_bytes) == (METADATA, 0)


def test_spilling_nothing_gives_nothing(engine: spill.Engine) -> None:
    assert engine.spill([]) == []


@pytest.mark.parametrize("size_bytes", [1000, 5_000_000])
def test_a_flipped_payload_byte_is_damage(size_bytes: int, engine: spill.Engine) -> None:
    ((object_id, *_),) = objects = make_objects(1, size_bytes)
    (url,) = engine.spill(objects)
    flip_byte(url, HEADER_BYTES + size_bytes // 2)
    with pytest.raises(spill.SpillDamageError):
        read(engine, url, object_id)


@pytest.mark.parametrize("at", [0, 8, 16, 24, HEADER_BYTES - 1])
def test_a_flipped_header_byte_is_damage(at: int, engine: spill.Engine) -> None:
    ((object_id, *_),) = objects = make_objects(1, 1000)
    (url,) = engine.spill(objects)
    flip_byte(url, at)
    with pytest.raises(spill.SpillDamageError):
        engine.open(url.decode(), object_id)


def test_damage_of_one_object_is_not_its_neighbours(engine: spill.Engine) -> None:
    objects = make_objects(3, 10_000)
    urls = engine.spill(objects)
    flip_byte(urls[1], HEADER_BYTES)
    assert read(engine, urls[0], objects[0][0]) == objects[0][3]
    assert read(engine, urls[2], objects[2][0]) == objects[2][3]


def test_another_objects_id_is_damage(engine: spill.Engine) -> None:
    (url,) = engine.spill(make_objects(1, 1000))
    with pytest.raises(spill.SpillDamageError):
        engine.open(url.decode(), ID)


def test_a_deleted_object_is_not_found(engine: spill.Engine) -> None:
    ((object_id, *_),) = objects = make_objects(1, 1000)
    (url,) = engine.spill(objects)
    engine.delete([url.decode()])
    engine.delete([url.decode()])
    with pytest.raises(FileNotFoundError):
        engine.open(url.decode(), object_id)


def test_no_room_is_an_os_error_and_leaves_no_file(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    engine = make_engine(node, reserve_bytes=1 << 60)
    with pytest.raises(spill.SpillNoSpaceError) as error:
        engine.spill(make_objects(2, 1000))
    assert isinstance(error.value, OSError)
    assert str(node) in str(error.value)
    assert [name for _, _, names in os.walk(node) for name in names] == []


@pytest.mark.parametrize(
    "item",
    [
        (ID, OWNER, METADATA),
        (ID, OWNER, METADATA, b"", b""),
        [ID, OWNER, METADATA, b""],
        b"four",
        None,
        ("x" * 28, OWNER, METADATA, b""),
        (ID, "owner", METADATA, b""),
        (ID, OWNER, None, b""),
        (ID, OWNER, METADATA, "text"),
        (ID, OWNER, METADATA, 5),
    ],
)
def test_a_wrong_item_is_a_type_error(item: Any, engine: spill.Engine) -> None:
    with pytest.raises(TypeError):
        engine.spill([item])


@pytest.mark.parametrize("length", [0, 27, 29])
def test_an_id_of_a_wrong_length_is_a_value_error(length: int, engine: spill.Engine) -> None:
    with pytest.raises(ValueError, match="an object id has 28 bytes"):
        engine.spill([(bytes(length), OWNER, METADATA, b"")])
    (url,) = engine.spill([(ID, OWNER, METADATA, b"")])
    with pytest.raises(ValueError, match="an object id has 28 bytes"):
        engine.open(url.decode(), bytes(length))


@pytest.mark.parametrize("url", ["", "nonsense", "/path", "/path?offset=x&size=1"])
def test_a_url_that_is_none_is_a_value_error(url: str, engine: spill.Engine) -> None:
    with pytest.raises(ValueError, match=r"."):
        engine.open(url, ID)


def test_an_unknown_cache_mode_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep, drop or direct, not 'sometimes'"):
        spill.Engine(
            node_directories=[str(tmp_path)],
            max_segment_bytes=1,
            max_fused_bytes=1,
            reserve_bytes=None,
            cache_mode="sometimes",
            read_ahead_bytes=0,
            punch_delay_ms=0,
        )


def assert_released(buffer: bytearray) -> None:
    # Python refuses to resize a buffer that somebody holds.
    buffer.append(0)


def test_buffers_are_released_after_spill_and_readinto(engine: spill.Engine) -> None:
    payload = bytearray(b"x" * 1000)
    (url,) = engine.spill([(ID, OWNER, METADATA, payload)])
    assert_released(payload)
    reader = engine.open(url.decode(), ID)
    target = bytearray(reader.payload_bytes)
    reader.readinto(target)
    assert target == b"x" * 1000
    assert_released(target)


def test_buffers_are_released_when_spill_fails(tmp_path: Path) -> None:
    engine = make_engine(make_node(tmp_path), reserve_bytes=1 << 60)
    payload = bytearray(b"x" * 1000)
    for bad, error in (((ID, OWNER, METADATA, 5), TypeError), (None, spill.SpillNoSpaceError)):
        objects: list[Any] = [(ID, OWNER, METADATA, payload)]
        if bad is not None:
            objects.append(bad)
        with pytest.raises(error):
            engine.spill(objects)
        assert_released(payload)


def test_buffers_are_released_when_readinto_finds_damage(engine: spill.Engine) -> None:
    size_bytes = 5_000_000
    ((object_id, *_),) = objects = make_objects(1, size_bytes)
    (url,) = engine.spill(objects)
    flip_byte(url, HEADER_BYTES + size_bytes - 1)
    reader = engine.open(url.decode(), object_id)
    assert not reader.checked
    target = bytearray(size_bytes)
    with pytest.raises(spill.SpillDamageError):
        reader.readinto(target)
    assert_released(target)


def test_readinto_wants_a_writable_buffer_of_the_right_size(engine: spill.Engine) -> None:
    (url,) = engine.spill([(ID, OWNER, METADATA, b"four")])
    with pytest.raises(BufferError):
        engine.open(url.decode(), ID).readinto(b"four")
    for size_bytes in (3, 5):
        with pytest.raises(ValueError, match=r"."):
            engine.open(url.decode(), ID).readinto(bytearray(size_bytes))
