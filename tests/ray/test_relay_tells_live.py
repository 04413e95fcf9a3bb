"""What a relay before a real GCS tells: its log, its metrics, and what does not come into the GCS's log.

Stale sync messages are what logs fill with: Ray's GCS drops them and says so each time; behind a relay
none reaches it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import REPOSITORY, RayEnv
from tests.support.relays import RelayProcess

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import sync_arms

PROGRAMS = Path(__file__).with_name("programs")
# What the GCS logs for a message that it drops: 2.48 and 2.60.
WORDS = ("Drop message received from", "Dropping sync message with stale version")
SYNC = "mantaray_relay_sync_"
# Nodes of one program do not leave while those of the next one are counted.
STAY = "--grace-ms=600000"
TYPES = {
    "gauge": [
        *(f"{SYNC}{name}" for name in ("nodes", "streams", "upstream_connected", "memory_bytes")),
        *(f"{SYNC}queued", f"{SYNC}lag_ms", "mantaray_relay_proxy_in_flight"),
    ],
    # The parser leaves `_total` out.
    "counter": [
        *(f"{SYNC}{name}" for name in ("frames", "messages", "bytes", "coalesced", "stale")),
        *(f"{SYNC}refused", "mantaray_relay_proxy_calls"),
    ],
    "histogram": [f"{SYNC}delay_seconds", "mantaray_relay_proxy_seconds"],
}


def complaints(directory: Path) -> int:
    """Return how often a GCS has told of dropped messages in its log."""
    texts = [path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file()]
    return sum(text.count(words) for text in texts for words in WORDS)


@pytest.fixture(scope="module")
def seen(ray_env: RayEnv) -> Any:
    """The same stale messages to two relays first, and then to the GCS behind them; and the metrics.

    One relay logs everything, as JSON, and the other one what it logs when nothing else is said.
    """
    dialect = sync_arms.DIALECTS[ray_env.version]
    told: dict[str, Any] = {}
    with (
        sync_arms.scratch() as directory,
        sync_arms.gcs_server(ray_env.version, directory, {}) as (_, port),
        RelayProcess(ray_env, f"127.0.0.1:{port}", directory, [STAY, "--log-level=debug"]) as relay,
        RelayProcess(ray_env, f"127.0.0.1:{port}", directory, [STAY, "--log-format=text"]) as plain,
    ):
        gcs = f"127.0.0.1:{port}"
        before = 0
        for name, address in {"relay": relay.address, "plain": plain.address, "gcs": gcs}.items():
            told[name] = ray_env.run_program(PROGRAMS / "relay_stale.py", [address, dialect, name])
            after = complaints(directory)
            told[name]["complaints"], before = after - before, after
        told["counted"] = relay.metric(f"{SYNC}stale_total")
        told["debug_log"] = relay.log.read_text().splitlines()
        told["plain_log"] = plain.log.read_text().splitlines()
        told["metrics"] = ray_env.run_program(
            PROGRAMS / "relay_metrics.py", [relay.address, relay.admin, gcs, dialect]
        )
    return told


def test_stale_messages_do_not_reach_the_log_of_the_gcs_behind_a_relay(seen: Any) -> None:
    for relay in (seen["relay"], seen["plain"]):
        assert relay["complaints"] == 0
        assert relay["heard"] == [1000, 2000]
    assert seen["counted"] >= seen["relay"]["stale"]


def test_stale_messages_fill_the_log_of_a_gcs_without_a_relay(seen: Any) -> None:
    # Otherwise the test above shows nothing.
    assert seen["gcs"]["complaints"] > 0
    assert seen["gcs"]["heard"] == [1000, 2000]


def test_stale_messages_fill_the_log_of_a_relay_only_at_debug(seen: Any) -> None:
    lines = [json.loads(line) for line in seen["debug_log"]]
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    dropped = [line for line in lines if line["event"] == "stale messages dropped"]
    assert {line["level"] for line in dropped} == {"debug"}
    assert sum(int(line["count"]) for line in dropped) == seen["counted"]
    # The other relay was sent the same ones, and logged other things.
    assert sum(" INFO relay: stream taken " in line for line in seen["plain_log"]) == 2
    assert not any("stale" in line or " DEBUG " in line for line in seen["plain_log"])
    assert not any(line.startswith("{") for line in seen["plain_log"])


def test_metrics_do_not_stand_still_while_a_relay_works(seen: Any) -> None:
    metrics = seen["metrics"]
    sent, before, after = metrics["sent"], metrics["before"], metrics["after"]
    assert metrics["done"]
    for kind, names in TYPES.items():
        assert {name: metrics["types"].get(name) for name in names} == dict.fromkeys(names, kind)

    def moved(sample: str) -> float:
        return float(after[sample] - before.get(sample, 0.0))

    def traffic(what: str, side: str, direction: str) -> float:
        return moved(f"{SYNC}{what}_total{{direction={direction},side={side}}}")

    # A listener, a teller, and one at the GCS. The one that read nothing said nothing either, and has gone.
    assert moved(f"{SYNC}nodes") == 3
    assert moved(f"{SYNC}streams") == 2
    assert after[f"{SYNC}upstream_connected"] == 1
    assert after[f"{SYNC}memory_bytes"] > sent["bytes"] / sent["messages"]
    # In comes what was sent and two greetings; out goes what the listener has seen, and upstream once more.
    assert traffic("messages", "downstream", "in") == sent["messages"] + 2
    assert sent["bytes"] < traffic("bytes", "downstream", "in") < 1.1 * sent["bytes"]
    for side in ("downstream", "upstream"):
        assert traffic("messages", side, "out") > 20
        assert traffic("bytes", side, "out") > sent["bytes"]
    assert traffic("messages", "upstream", "in") >= 1
    assert traffic("bytes", "upstream", "in") > 40
    assert traffic("frames", "upstream", "in") >= 1
    assert moved(f"{SYNC}coalesced_total") >= 1
    assert moved(f"{SYNC}stale_total") >= sent["stale"]


def test_metrics_show_how_long_updates_and_calls_take_and_who_is_behind(seen: Any) -> None:
    metrics = seen["metrics"]
    sent, before, after = metrics["sent"], metrics["before"], metrics["after"]

    def grown(histogram: str) -> tuple[float, float]:
        bounds = {
            float(name.partition("le=")[2].strip("}")): value
            for name, value in after.items()
            if name.startswith(f"{histogram}_bucket")
        }
        counts = [bounds[bound] for bound in sorted(bounds)]
        assert counts == sorted(counts)
        assert counts[-1] == after[f"{histogram}_count"]
        count, total = (
            after[f"{histogram}_{n}"] - before[f"{histogram}_{n}"] for n in ("count", "sum")
        )
        return count, total / count

    count, mean_s = grown(f"{SYNC}delay_seconds")
    # Each of the large ones was let go by itself, after a window of 25 ms.
    assert count > 20
    assert 0.01 < mean_s < 5
    count, mean_s = grown("mantaray_relay_proxy_seconds")
    assert count >= sent["proxied"]
    assert 0 < mean_s < 5
    ended = sum(
        value - before.get(name, 0.0)
        for name, value in after.items()
        if name.startswith("mantaray_relay_proxy_calls_total")
    )
    assert ended == count
    # Its health was still being watched.
    assert after["mantaray_relay_proxy_in_flight"] - before["mantaray_relay_proxy_in_flight"] == 1
    # While there was a node that did not read, and when it had gone.
    behind = metrics["behind"]
    assert behind[f"{SYNC}queued"] >= 1
    assert behind[f"{SYNC}lag_ms"] > 300
    assert after[f"{SYNC}queued"] == 0
