"""A native engine on a directory of the test, and objects for it."""

from __future__ import annotations

import os
from pathlib import Path

from mantaray._native import spill

NODE = spill.NODE_DIRECTORY_PREFIX + "0" * 56
OWNER = b"owner address"
METADATA = b"metadata"
HEADER_BYTES = 24 + len(OWNER) + len(METADATA)

ObjectTuple = tuple[bytes, bytes, bytes, object]


def make_node(directory: Path) -> Path:
    """Make and return a node's directory in a spill directory."""
    node = directory / NODE
    node.mkdir(parents=True)
    return node


def make_engine(node: Path, *, reserve_bytes: int = 0) -> spill.Engine:
    """Return an engine that gives disk back at the next tick.

    Args:
        node: the node's directory.
        reserve_bytes: what it leaves free.
    """
    return spill.Engine(
        node_directories=[str(node)],
        max_segment_bytes=64 << 20,
        max_fused_bytes=16 << 20,
        reserve_bytes=reserve_bytes,
        cache_mode="drop",
        read_ahead_bytes=0,
        punch_delay_ms=0,
    )


def make_objects(count: int, size_bytes: int) -> list[ObjectTuple]:
    """Return objects of random bytes to spill."""
    return [(os.urandom(28), OWNER, METADATA, os.urandom(size_bytes)) for _ in range(count)]


def flip_byte(url: bytes, at: int) -> None:
    """Flip the bits of one byte of a spilled object.

    Args:
        url: the object's.
        at: the byte, counted from the start of the object.
    """
    path, _, query = url.decode().partition("?offset=")
    with open(path, "r+b") as file:
        file.seek(int(query.partition("&")[0]) + at)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
