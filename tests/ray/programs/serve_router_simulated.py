"""One of Ray's routers, simulated replicas with one slot, and simulated time.

Calls reach a replica in the order in which they are made; answers, queue lengths and results come back
after random delays, so one may overtake another.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from ray.exceptions import ActorDiedError
from ray.serve._private import router as module
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    ReplicaQueueLengthInfo,
    RequestMetadata,
)
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter

DEPLOYMENT = DeploymentID(name="Simulated", app_name="order")


class Skip(selectors.SelectSelector):
    """Does not sleep: puts the clock on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop in which time passes only while nothing is to be done."""

    def __init__(self) -> None:
        self.skip = Skip()
        super().__init__(self.skip)

    def time(self) -> float:
        return self.skip.now


class Result:
    """What Ray's router gets for a request that it has sent."""

    def __init__(self, loop: Loop) -> None:
        self.answered: asyncio.Future[ReplicaQueueLengthInfo] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    async def get_rejection_response(self) -> ReplicaQueueLengthInfo:
        return await self.answered

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        self.ended.add_done_callback(lambda _: callback(None))

    def cancel(self) -> None:
        """A request that was turned away has nothing to cancel."""


class Replica:
    """One slot. A request that finds it taken is turned away."""

    max_ongoing_requests = 1
    is_cross_language = False
    node_id = "node"
    actor_id = "actor"
    availability_zone = None
    multiplexed_model_ids: frozenset[str] = frozenset()
    replica_id = ReplicaID("one", deployment_id=DEPLOYMENT)

    def __init__(
        self, loop: Loop, seed: int, request_s: float, delay_s: float, name: str = "one"
    ) -> None:
        """Begin with nothing.

        Args:
            loop: where it runs.
            seed: of all that is random.
            request_s: how long a request takes, about.
            delay_s: how long a call is under way, one way, about.
            name: makes its id.
        """
        self.replica_id = ReplicaID(name, deployment_id=DEPLOYMENT)
        self.is_dead = False
        # Of several models; each is loaded in a moment.
        self.loaded: set[str] = set()
        self.loads = 0
        self.served: list[int] = []
        self._loop = loop
        self._random = random.Random(seed)
        self._request_s = request_s
        self._delay_s = delay_s
        self._ongoing = 0
        self._last_arrival = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _later(self) -> float:
        # Most are quick, some are not.
        return self._random.expovariate(1 / self._delay_s) * self._random.choice((0.1, 1, 1, 5))

    def _arrival(self) -> asyncio.Future[None]:
        self._last_arrival = max(self._last_arrival + 1e-6, self._loop.time() + self._later())
        arrived = self._loop.create_future()
        self._loop.call_at(self._last_arrival, lambda: arrived.done() or arrived.set_result(None))
        return arrived

    async def get_queue_len(self, *, deadline_s: float) -> int:
        await self._arrival()
        if self.is_dead:
            raise ActorDiedError()
        length = self._ongoing
        await asyncio.sleep(self._later())
        return length

    def try_send_request(self, request: Any, with_rejection: bool) -> Result:
        """Send a request, as later Rays do."""
        result = Result(self._loop)
        self._start(self._serve(request, self._arrival(), result))
        return result

    async def send_request(
        self, request: Any, with_rejection: bool
    ) -> tuple[Result | None, ReplicaQueueLengthInfo]:
        """Send a request and wait for the answer, as Ray 2.48 does."""
        result = self.try_send_request(request, with_rejection)
        answer = await result.answered
        return result if answer.accepted else None, answer

    async def reserve_slot(self, metadata: Any) -> tuple[str, ReplicaQueueLengthInfo]:
        """Keep the slot for a request that may follow."""
        await self._arrival()
        accepted = self._ongoing < self.max_ongoing_requests
        self._ongoing += accepted
        return "token", ReplicaQueueLengthInfo(accepted, self._ongoing)

    async def release_slot(self, token: str) -> int:
        """Give up the slot that was kept."""
        await self._arrival()
        self._ongoing -= 1
        return self._ongoing

    async def _serve(self, request: Any, arrived: asyncio.Future[None], result: Result) -> None:
        await arrived
        accepted = self._ongoing < self.max_ongoing_requests
        if accepted:
            self._ongoing += 1
            self.served.append(request.args[0])
        answer = ReplicaQueueLengthInfo(accepted, self._ongoing)
        self._start(self._answer(result, answer))
        if accepted:
            model = request.metadata.multiplexed_model_id
            if model and model not in self.loaded:
                self.loaded.add(model)
                self.loads += 1
                await asyncio.sleep(self._request_s)
            await asyncio.sleep(self._request_s * self._random.uniform(0.5, 1.5))
            self._start(self._end(result))
            # The result may be with whoever asked before the replica counts a request less.
            await asyncio.sleep(self._later())
            self._ongoing -= 1

    async def _answer(self, result: Result, answer: ReplicaQueueLengthInfo) -> None:
        await asyncio.sleep(self._later())
        result.answered.set_result(answer)

    async def _end(self, result: Result) -> None:
        await result.answered
        await asyncio.sleep(self._later())
        result.ended.set_result(None)


class NoController:
    """Stands where Ray's routers hear of changes: here are none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what the real ones take."""

    @classmethod
    def get_or_create(cls, *args: Any) -> NoController:
        return cls()

    def register(self, router: Any) -> None:
        """There is nothing to tell it."""

    def stop(self) -> None:
        """Nothing was begun."""


def make_router(loop: Loop) -> Any:
    """Return one of Ray's routers that does not know its deployment yet."""
    return module.AsyncioRouter(
        controller_handle=None,
        deployment_id=DEPLOYMENT,
        handle_id="handle",
        self_actor_id="actor",
        handle_source=DeploymentHandleSource.REPLICA,
        event_loop=loop,
        enable_strict_max_ongoing_requests=True,
        node_id="node",
        availability_zone=None,
        prefer_local_node_routing=False,
        _request_router_initialized_event=asyncio.Event(),
    )


def initialize(router: Any, cls: Any = PowerOfTwoChoicesRequestRouter) -> None:
    """Let a router know its deployment and the class of its request router."""
    router._request_router = cls(
        deployment_id=DEPLOYMENT,
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
        self_node_id="node",
        self_actor_id="actor",
        self_actor_handle=None,
    )
    router._request_router_initialized.set()


def metadata(number: int, model: str = "") -> RequestMetadata:
    """Return the metadata of a request."""
    return RequestMetadata(
        request_id=str(number),
        internal_request_id=str(number),
        call_method="__call__",
        multiplexed_model_id=model,
    )


def pending(number: int) -> PendingRequest:
    """Return a request as Ray's request routers are given it."""
    return PendingRequest(args=[number], kwargs={}, metadata=metadata(number))


def ask(loop: Loop, router: Any, number: int, model: str = "") -> asyncio.Task[Any]:
    """Send a request."""
    return loop.create_task(router.assign_request(metadata(number, model), number))


def simulated(scenario: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """Run a scenario in a loop of its own, for ten simulated minutes at most."""
    loop = Loop()
    asyncio.set_event_loop(loop)
    seen = loop.run_until_complete(asyncio.wait_for(scenario(loop, *args), 600))
    # Routers report on themselves for ever.
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()
    return seen


def without_controller() -> None:
    """Let routers of this process ask no controller for changes."""
    vars(module).update(LongPollClient=NoController, SharedRouterLongPollClient=NoController)
