"""Serves from nodes of which some have Mantaray; prints what was answered, as one line of JSON.

Arguments: what to do, the port of the HTTP proxies, and the addresses of the nodes. One deployment has a
replica on each node, and on each node an application with a router of its own calls it. "deploy" deploys
them, calls with a handle of the driver, and asks every proxy. "call" does not deploy. "ask" only asks the
proxies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import serve

WHAT, PORT = sys.argv[1], int(sys.argv[2])
ADDRESSES = sys.argv[3:]
COUNT = 24
# A controller that is being recovered, on a slow machine.
LONGEST_S = 240.0
# By then a router knows every replica. With one node left, this is waited for in vain.
KNOWS_ALL_S = 20.0


def version() -> str | None:
    """Return the version of the Mantaray that is attached to this process."""
    module = sys.modules.get("mantaray")
    return None if module is None else str(module.__version__)


@serve.deployment(max_ongoing_requests=1, ray_actor_options={"num_cpus": 0})
class Shared:
    """One request at a time; says on which node, what Mantaray is there, and in which process."""

    async def __call__(self, number: int) -> list[Any]:
        await asyncio.sleep(0.02)
        return [number, ray.util.get_node_ip_address(), version(), os.getpid()]


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Caller:
    """Has a router of its own, to the replicas on all nodes."""

    def __init__(self, handle: Any) -> None:
        """Take the handle."""
        self._handle = handle

    async def __call__(self, request: Any) -> dict[str, Any]:
        deadline = time.monotonic() + KNOWS_ALL_S
        while True:
            asked = [self._handle.remote(number) for number in range(COUNT)]
            answers = [await each for each in asked]
            # A router that is new may know one of the replicas first, and has the other one later.
            if len({at for _, at, *_ in answers}) == len(ADDRESSES) or time.monotonic() > deadline:
                return {"own": [ray.util.get_node_ip_address(), version()], "answers": answers}


def call(handle: Any) -> list[Any]:
    """Return the answers to a burst in which every replica had a part, or to the last one."""
    deadline = time.monotonic() + KNOWS_ALL_S
    while True:
        asked = [handle.remote(number) for number in range(COUNT)]
        answers = [each.result(timeout_s=LONGEST_S) for each in asked]
        if len({at for _, at, *_ in answers}) == len(ADDRESSES) or time.monotonic() > deadline:
            return answers


def deploy() -> None:
    # It gives the proxies 60 s; `ask` waits longer for them.
    with contextlib.suppress(TimeoutError):
        serve.start(proxy_location="EveryNode", http_options={"host": "0.0.0.0", "port": PORT})
    shared = Shared.options(num_replicas=len(ADDRESSES), max_replicas_per_node=1)
    serve.run(shared.bind(), name="shared", route_prefix=None)
    handle = serve.get_app_handle("shared")
    for number, address in enumerate(ADDRESSES):
        options = {"num_cpus": 0, "resources": {f"node:{address}": 0.01}}
        app = Caller.options(ray_actor_options=options).bind(handle)
        serve.run(app, name=f"app-{number}", route_prefix=f"/app-{number}")


def ask(address: str, name: str) -> Any:
    """Return what an application answers through the proxy of a node."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        try:
            with urllib.request.urlopen(
                f"http://{address}:{PORT}/{name}", timeout=LONGEST_S
            ) as answer:
                return json.loads(answer.read())
        except OSError:
            # The proxy or the application is not there yet.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def main() -> None:
    told: dict[str, Any] = {"driver": version()}
    if WHAT != "ask":
        ray.init(log_to_driver=False)
        if WHAT == "deploy":
            deploy()
        handle = serve.get_app_handle("shared")
        told["of driver"] = call(handle)
    with ThreadPoolExecutor() as pool:
        asked_for = {
            f"{name} through {address}": pool.submit(ask, address, name)
            for address in ADDRESSES
            for name in (f"app-{number}" for number in range(len(ADDRESSES)))
        }
        told["seen"] = {what: future.result() for what, future in asked_for.items()}
    print(json.dumps(told), flush=True)
    # Serve stays.
    os._exit(0)


main()
