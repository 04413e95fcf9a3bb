"""Serves requests with a router that another process has pickled, where Mantaray cannot be imported.

Arguments: "dump" or "load", and a file. Prints as JSON in which order requests were served.
"""

# What is imported depends on what may be imported.
# ruff: noqa: E402

from __future__ import annotations

import asyncio
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

WHAT, FILE = sys.argv[1], Path(sys.argv[2])


class NoMantaray(MetaPathFinder):
    """An environment without Mantaray."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "mantaray":
            raise ModuleNotFoundError(name)


if WHAT == "load":
    for module in [name for name in sys.modules if name.split(".")[0] == "mantaray"]:
        del sys.modules[module]
    sys.meta_path = [each for each in sys.meta_path if "mantaray" not in type(each).__module__]
    sys.meta_path.insert(0, NoMantaray())

from ray import cloudpickle
from ray.serve._private import replica, router
from ray.serve._private.request_router import request_router
from ray.serve.config import RequestRouterConfig
from serve_router_simulated import (
    Loop,
    Replica,
    ask,
    initialize,
    make_router,
    simulated,
    without_controller,
)


async def burst(loop: Loop, cls: Any) -> list[int]:
    """Serve some requests with a router of a class; return in which order they were served."""
    asyncio_router = make_router(loop)
    initialize(asyncio_router, cls)
    one = Replica(loop, 1, 0.05, 0.0002)
    asyncio_router.request_router.update_replicas([one])
    await asyncio.wait([ask(loop, asyncio_router, number) for number in range(10)])
    return sorted(one.served)


def main() -> None:
    without_controller()
    if WHAT == "dump":
        config = RequestRouterConfig()
        actor = type("ServeReplica", (replica.ReplicaActor,), dict(replica.ReplicaActor.__dict__))
        # A router that was used is no part of what is pickled, nor has it changed its class.
        simulated(burst, config.get_request_router_class())
        FILE.write_bytes(cloudpickle.dumps((RequestRouterConfig(), actor)))
        patched = any(name.startswith("mantaray.serve") for name in sys.modules)
        print(json.dumps({"patched": patched}))
        return
    config, actor = cloudpickle.loads(FILE.read_bytes())
    served = simulated(burst, config.get_request_router_class())
    assert router and request_router and actor
    print(json.dumps({"served": served, "patched": "mantaray" in sys.modules}))


main()
