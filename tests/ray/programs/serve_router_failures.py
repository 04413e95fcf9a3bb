"""Lets each part of Mantaray that a request router calls fail in turn: no request may stay unanswered.

Routers of Ray, simulated replicas and simulated time, as in `serve_router_order.py`. Prints as JSON, for
each part, in which order requests were served, or what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from ray.serve._private.request_router.replica_wrapper import RunningReplica
from serve_router_simulated import (
    Loop,
    Replica,
    ask,
    initialize,
    make_router,
    pending,
    simulated,
    without_controller,
)

COUNT = 20


class Bare(RunningReplica):  # type: ignore[misc]
    """A replica of which a router knows just what it needs to choose one; upstream's tests use such."""

    max_ongoing_requests = 1
    node_id = "node"
    availability_zone = None
    multiplexed_model_ids: frozenset[str] = frozenset()
    replica_id = Replica.replica_id

    def __init__(self) -> None:
        """Begin with no request."""
        self.ongoing = 1

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.ongoing


async def bare(loop: Loop) -> list[int]:
    """Wait for a bare replica that is full with requests of others; return which requests got it."""
    router = make_router(loop)
    initialize(router)
    replica = Bare()
    router.request_router.update_replicas([replica])
    got: list[int] = []
    for number in range(3):
        replica.ongoing = 1
        request = pending(number)
        task = loop.create_task(router.request_router._choose_replica_for_request(request))
        await asyncio.sleep(1)
        replica.ongoing = 0
        got += [number] if await task is replica else []
        # It stays full, whatever becomes of requests that upstream's tests do not send.
        await asyncio.sleep(20)
    return got


async def burst(loop: Loop) -> list[int]:
    """Send requests at once, of which the last is cancelled; return which were served."""
    router = make_router(loop)
    initialize(router)
    replica = Replica(loop, 1, 0.05, 0.0002)
    router.request_router.update_replicas([replica])
    asked = [ask(loop, router, number) for number in range(COUNT)]
    await asyncio.sleep(0.1)
    asked[-1].cancel()
    results = await asyncio.gather(*asked[:-1])
    await asyncio.wait([result.ended for result in results])
    return sorted(replica.served)


def parts() -> list[tuple[type, str]]:
    """Return every method of Mantaray's that a request router may call."""
    from mantaray.serve import accounts, listening, models, routing, waiters

    classes = (
        routing.Routing,
        accounts.Accounts,
        waiters.Waiters,
        listening.Listener,
        models.Models,
    )
    return [
        (cls, name)
        for cls in classes
        for name, value in vars(cls).items()
        if callable(value) or isinstance(value, property)
    ]


def failing(cls: type, name: str, run: Callable[[], Any]) -> Any:
    """Run something while a method fails whenever it is called."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{cls.__name__}.{name} fails")

    original = vars(cls)[name]
    setattr(cls, name, property(fail) if isinstance(original, property) else fail)
    try:
        return run()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        setattr(cls, name, original)


def main() -> None:
    from mantaray.serve import guard

    without_controller()
    logger = logging.getLogger("ray.serve")
    logged: list[str] = []
    logger.handlers = []
    logger.propagate = False
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    told: dict[str, Any] = {"bare": simulated(bare), "whole": simulated(burst)}
    ours = [text for text in logged if text.startswith("Mantaray's replica router failed")]
    told["logged without a failure"] = ours
    served, most_logged = {}, 0
    for cls, name in parts():
        logged.clear()
        guard._logged.clear()
        served[f"{cls.__name__}.{name}"] = failing(cls, name, lambda: simulated(burst))
        ours = [text for text in logged if text.startswith("Mantaray's replica router failed")]
        most_logged = max([most_logged, *map(ours.count, ours)])
    told["served"] = served
    told["logged at most"] = most_logged
    print(json.dumps(told))


main()
