"""Fixtures of the overlay's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from .world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An environment with Mantaray and a fake Ray 2.60.0, and no patch yet."""
    return World(tmp_path / "world")
