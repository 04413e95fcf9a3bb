"""The load benchmark, as small as shows that what it says is so."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import load

OPTIONS = argparse.Namespace(pages=260, askers=40)


def check(run: dict[str, Any]) -> None:
    """See that nobody was left without an answer and that everything was ingested."""
    assert run["failed"] == 0
    assert run["written"] == OPTIONS.pages - run["live_bytes"] // 1_000_000
    # The crawl overran the object store.
    assert run["disk_peak_bytes"] > 10e6


@pytest.mark.slow
def test_spilled_pages_give_their_disk_back_when_they_are_ingested() -> None:
    run = load.run_arm("mantaray", OPTIONS)
    check(run)
    assert run["disk_after_bytes"] < 2 * run["live_bytes"]


@pytest.mark.slow
def test_the_service_holds_under_load_on_stock_ray_too() -> None:
    check(load.run_arm("stock", OPTIONS))
