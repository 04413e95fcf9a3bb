"""Nodes behind a relay and one at the GCS itself: what they publish arrives, whoever comes and goes.

Arguments: the relay's address, the GCS's, "batch" or "bare". Prints what arrived.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sync_client import SyncClient, available

NODES = 8
ROUNDS = 30


def refused(relay: str, dialect: str, victim: bytes) -> int:
    """Return how many hostile streams the relay sent away."""
    hostile = Path(__file__).with_name("relay_hostile.py")
    done = subprocess.run(
        [sys.executable, str(hostile), relay, dialect, victim.hex()],
        capture_output=True,
        text=True,
        check=True,
    )
    return sum(status not in ("OPEN", "OK") for status in json.loads(done.stdout).values())


def main() -> None:
    """Publish, listen, leave and come back; print whether everything was heard."""
    relay, gcs, dialect = sys.argv[1:]
    batch = dialect == "batch"
    direct = SyncClient(gcs, batch)
    behind = [SyncClient(relay, batch) for _ in range(NODES)]

    def hears(listener: SyncClient, speaker: SyncClient, cpus: float) -> bool:
        return listener.wait(
            lambda one: (
                speaker.node_id in one.seen
                and available(one.seen[speaker.node_id].payload).get("CPU") == cpus
            )
        )

    for number in range(ROUNDS):
        for client in (direct, *behind):
            client.publish({"CPU": float(number)})
    last = float(ROUNDS - 1)
    others = behind[1:]
    seen: dict[str, bool | int] = {
        "up": all(hears(direct, client, last) for client in behind),
        "down": all(hears(client, direct, last) for client in behind),
        "across": all(hears(behind[0], client, last) for client in others),
        "own": any(client.node_id in client.seen for client in (direct, *behind)),
    }
    # A second stream of a node takes the place of its first; another node goes; hostile ones are sent away.
    again = SyncClient(relay, batch, node_id=behind[0].node_id)
    behind[1].close()
    seen["hostile"] = refused(relay, dialect, behind[2].node_id)
    seen["replaced"] = behind[0].ended.wait(60)
    again.publish({"CPU": 99.0})
    seen["again"] = hears(direct, again, 99.0) and hears(behind[-1], again, 99.0)
    for client in (again, *behind, direct):
        client.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
