"""Which models replicas hold, as far as one router knows, and which request gets a free slot.

Ray gives a free slot to the request whose turn it is, wherever its model is loaded. In a burst of
requests for several models, that loads models again and again: each request goes where a slot is,
and its model replaces one that the next request needs. Here the slot goes to the oldest request
that is *eligible* for that replica. A request is not eligible while its model is on another replica
only, for as long as Ray's preference lasts (RAY_SERVE_MULTIPLEXED_MODEL_ID_MATCHING_TIMEOUT_S). No slot
stays empty: if no request is eligible, the oldest one gets it. So a request waits for no longer than
the preference lasts and the requests before it take. Pure Python, no Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Hashable, Iterable, MutableSequence
from typing import Any

# How many of the models that were sent to a replica are remembered.
_MOST = 100
# How long after a new model was sent to a replica its reports may include models that it is still
# loading. Reports are about a second old.
_LOADING_S = 2.0


class Models:
    """The models of each replica: reports of the controller, which come late, and what was sent there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with no replica.

        Args:
            clock: tells seconds.
        """
        self._clock = clock
        self._sent: dict[Hashable, list[str]] = {}
        self._room: dict[Hashable, int] = {}
        self._loading_until: dict[Hashable, float] = {}

    def sent(self, replica_id: Hashable, model: str, reported: Collection[str]) -> None:
        """Note that a request for a model goes to a replica, which loads the model if necessary."""
        recent = self._sent.setdefault(replica_id, [])
        if model in recent:
            recent.remove(model)
        recent.insert(0, model)
        del recent[_MOST:]
        if model not in reported:
            self._loading_until[replica_id] = self._clock() + _LOADING_S

    def on(self, replica_id: Hashable, reported: Collection[str]) -> list[str]:
        """Return the models that a replica holds: the last ones sent there, then what it has reported.

        A replica has room for as many models as any replica reports while it is not loading (a
        loading replica reports more). The others have been unloaded. Before the first report the
        room is unknown.
        """
        if self._clock() > self._loading_until.get(replica_id, -math.inf):
            self._room[replica_id] = len(reported)
        recent = self._sent.get(replica_id, [])
        known = recent + [model for model in reported if model not in recent]
        return known[: max(self._room.values(), default=0) or _MOST]

    def keep_only(self, replica_ids: Collection[Hashable]) -> None:
        """Forget replicas that are gone."""
        tables: tuple[dict[Hashable, Any], ...] = (self._sent, self._room, self._loading_until)
        for known in tables:
            for gone in known.keys() - set(replica_ids):
                del known[gone]


def oldest_that_fits(pending: Iterable[Any], models: Collection[str]) -> Any:
    """Return the first waiting request for one of the models; None if there is none."""
    return next(
        (
            request
            for request in pending
            if request.metadata.multiplexed_model_id in models and not request.future.done()
        ),
        None,
    )


def first_in_turn(
    pending: Iterable[Any],
    here: Collection[str],
    is_elsewhere: Callable[[str], bool],
    longest_s: float,
) -> Any:
    """Return the request that gets a free slot of a replica; None if none waits.

    Args:
        pending: the requests of one router, the oldest first.
        here: the models on the replica.
        is_elsewhere: tells whether a model is on any replica.
        longest_s: for how long a request prefers a replica that has its model, in seconds.
    """
    oldest = None
    for request in pending:
        if request.future.done():
            continue
        model = request.metadata.multiplexed_model_id
        if not model or model in here or is_overdue(request, longest_s) or not is_elsewhere(model):
            return request
        oldest = oldest or request
    return oldest


def is_overdue(request: Any, longest_s: float) -> bool:
    """Return whether a request no longer prefers the replica that has its model.

    The time counts from when a routing task first looks for a replica for it. Before that, it waits for
    the requests ahead of it, and not for its model.

    Args:
        request: Ray's pending request.
        longest_s: for how long it does, in seconds.
    """
    began = request.routing_context.multiplexed_start_matching_time
    return began is not None and bool(time.time() - began >= longest_s)


def move_into_place(queue: MutableSequence[Any]) -> None:
    """Put the last request of a queue behind those that are as old or older.

    Ray puts a request that a replica has rejected at the end of the queue of its model. Under load it
    would be overtaken without end.
    """
    if len(queue) < 2 or queue[-1].created_at >= queue[-2].created_at:
        return
    request = queue.pop()
    place = len(queue)
    while place and queue[place - 1].created_at > request.created_at:
        place -= 1
    queue.insert(place, request)
