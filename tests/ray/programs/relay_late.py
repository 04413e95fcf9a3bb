"""What nodes that join late are told: clients at several addresses, joined now.

Arguments: "batch" or "bare", how many of Ray's nodes to wait for, addresses. Prints the ids that each
client was told.
"""

from __future__ import annotations

import json
import sys
import time

from sync_client import SyncClient


def main() -> None:
    """Join, listen for a while, and print."""
    dialect, count, *addresses = sys.argv[1:]
    clients = [SyncClient(address, dialect == "batch") for address in addresses]
    ours = {client.node_id for client in clients}
    for client in clients:
        client.wait(lambda c: len(set(c.seen) - ours) >= int(count))
    # Whatever else there is to tell comes with it.
    time.sleep(1)
    print(json.dumps([sorted(node.hex() for node in set(c.seen) - ours) for c in clients]))


if __name__ == "__main__":
    main()
