"""Register simulated nodes with a GCS, as raylets do when they start; see sync_groups.py.

They are the nodes of the load generator (their ids are those of sync_storm/sync_messages.cc, seed 1)
and have CPUs but none of what the placement groups want. Run with the Python of the cluster's Ray.

python sync_groups_register.py ADDRESS:PORT NODES
"""

from __future__ import annotations

import json
import sys

import grpc
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

_SEED = 1
_MASK = 2**64 - 1
# Nothing listens there; nobody schedules anything on these nodes.
_NOWHERE = ("127.0.0.250", 9)


def node_id(index: int) -> bytes:
    """Return the id of a simulated node."""
    state = (_SEED * 0x9E3779B97F4A7C15 + index + 1) & _MASK
    end = bytearray()
    for _ in range(24):
        state = (state * 6364136223846793005 + 1442695040888963407) & _MASK
        end.append(state >> 56)
    return index.to_bytes(4, "little") + bytes(end)


def main() -> None:
    address, nodes = sys.argv[1], int(sys.argv[2])
    with grpc.insecure_channel(address) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        for index in range(nodes):
            info = gcs_pb2.GcsNodeInfo(
                node_id=node_id(index),
                node_manager_address=_NOWHERE[0],
                node_manager_port=_NOWHERE[1],
                object_manager_port=_NOWHERE[1],
                resources_total={"CPU": 64.0, "memory": 256e9, "object_store_memory": 64e9},
            )
            request = gcs_service_pb2.RegisterNodeRequest(node_info=info)
            reply = stub.RegisterNode(request, timeout=10)
            if reply.status.code != 0:
                raise SystemExit(f"node {index} is refused: {reply.status.message}")
    print(json.dumps({"registered": nodes}))


if __name__ == "__main__":
    main()
