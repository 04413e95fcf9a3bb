"""Stale sync messages: Ray's GCS drops them and says so in its log; behind a relay none reaches it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import REPOSITORY, RayEnv
from tests.support.relays import RelayProcess

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import sync_arms

PROGRAM = Path(__file__).with_name("programs") / "relay_stale.py"
# What the GCS logs for a message that it drops: 2.48 and 2.60.
WORDS = ("Drop message received from", "Dropping sync message with stale version")


def complaints(directory: Path) -> int:
    """Return how often a GCS has told of dropped messages in its log."""
    texts = [path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file()]
    return sum(text.count(words) for text in texts for words in WORDS)


@pytest.fixture(scope="module")
def seen(ray_env: RayEnv) -> Any:
    """The same stale messages, sent to a relay first, and then to the GCS behind it."""
    dialect = sync_arms.DIALECTS[ray_env.version]
    told: dict[str, Any] = {}
    with (
        sync_arms.scratch() as directory,
        sync_arms.gcs_server(ray_env.version, directory, {}) as (_, port),
        RelayProcess(ray_env, f"127.0.0.1:{port}", directory) as relay,
    ):
        for name, address in {"relay": relay.address, "gcs": f"127.0.0.1:{port}"}.items():
            told[name] = ray_env.run_program(PROGRAM, [address, dialect, name])
            told[name]["complaints"] = complaints(directory) - told.get("relay", {}).get(
                "complaints", 0
            )
        told["counted"] = relay.metric("mantaray_relay_sync_stale_total")
    print(told)
    return told


def test_stale_messages_do_not_reach_the_log_of_the_gcs_behind_a_relay(seen: Any) -> None:
    assert seen["relay"]["complaints"] == 0
    assert seen["relay"]["heard"] == [1000, 2000]
    assert seen["counted"] >= seen["relay"]["stale"]


def test_stale_messages_fill_the_log_of_a_gcs_without_a_relay(seen: Any) -> None:
    # Otherwise the test above shows nothing.
    assert seen["gcs"]["complaints"] > 0
    assert seen["gcs"]["heard"] == [1000, 2000]
