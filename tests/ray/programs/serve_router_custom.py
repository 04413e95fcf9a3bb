"""A request router of a user's: Serve imports it by name in other processes."""

from __future__ import annotations

from typing import Any

from ray.serve._private.request_router.request_router import RequestRouter


class Last(RequestRouter):
    """A router of a user's: always the replica whose id is last in the alphabet."""

    async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
        return [[max(candidate_replicas, key=lambda replica: replica.replica_id.unique_id)]]
