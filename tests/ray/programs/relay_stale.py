"""A node that repeats itself: sends stale messages to a GCS or a relay.

Arguments: the address, "batch" or "bare", and the name of a resource. Prints how many were stale.
"""

from __future__ import annotations

import json
import sys

from sync_client import SyncClient, bytes_field, message, view

STALE = 5


def main() -> None:
    """Send one message, then older ones and itself again, then a newer one that another node waits for."""
    address, dialect, resource = sys.argv[1:]
    batch = dialect == "batch"
    listener = SyncClient(address, batch)
    node = SyncClient(address, batch, say_hello=False)

    def tell(version: int, amount: float) -> None:
        told = message(node.node_id, version, view({resource: amount}))
        node.send(bytes_field(1, told) if batch else told)

    def hears(version: int) -> bool:
        return listener.wait(
            lambda client: (
                node.node_id in client.seen and client.seen[node.node_id].version == version
            )
        )

    tell(1_000, 1.0)
    assert hears(1_000)
    for version in (*range(1_000 - STALE + 1, 1_000), 1_000):
        tell(version, 2.0)
    tell(2_000, 3.0)
    assert hears(2_000)
    history = listener.seen[node.node_id].history
    node.close()
    listener.close()
    print(json.dumps({"stale": STALE, "heard": history}))


if __name__ == "__main__":
    main()
