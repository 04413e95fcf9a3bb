"""Prints what a process with Mantaray pickles of Serve, and which modules each pickle needs.

The pickles are those that Serve keeps in checkpoints or sends to other processes. Its argument is a file.
The first run puts there what Mantaray 0.1 pickled. A second run loads that and serves requests with it.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import pickletools
import sys
from pathlib import Path
from typing import Any

from mantaray.serve import hooks, routing
from mantaray.serve.slots import ROUTER
from ray import cloudpickle
from ray.serve._private import replica, router
from ray.serve._private import request_router as package
from ray.serve._private.common import RequestMetadata
from ray.serve._private.request_router import request_router
from ray.serve.config import RequestRouterConfig
from serve_router_custom import Last
from serve_router_simulated import (
    Loop,
    Replica,
    ask,
    initialize,
    make_router,
    simulated,
    without_controller,
)


def modules(data: bytes) -> set[str]:
    """Return the modules that loading a pickle imports."""
    found: set[str] = set()
    texts: list[str] = []
    for code, argument, _ in pickletools.genops(data):
        if code.name == "GLOBAL":
            found.add(str(argument).split(" ")[0])
        elif code.name == "STACK_GLOBAL":
            # Its module is the last but one of the texts before it, or an earlier one by number.
            found |= {text.split(".")[0] for text in texts if text.startswith("mantaray.")}
        if isinstance(argument, str):
            texts.append(argument)
    return found


def of_version_01() -> bytes:
    """Return Ray's default router as a process with Mantaray 0.1 pickles it."""
    classes = request_router.RequestRouter, request_router.FIFOMixin
    before = [(cls, name, value) for cls in classes for name, value in vars(cls).items()]
    names = {
        "_choose_replicas_with_backoff": Named("routing", "choose_replicas_with_backoff"),
        "_select_from_candidate_replicas": Named("hooks", "_select"),
        "_choose_replica_for_request": Named("hooks", "_choose_for"),
        "_probe_queue_lens": Named("hooks", "_probe"),
        "on_new_queue_len_info": Named("hooks", "_heard"),
        "update_replicas": Named("hooks", "_update"),
        "on_send_request": Named("hooks", "_send"),
        "decrement_queue_len_cache": Named("hooks", "_complete"),
        "_fulfill_next_pending_request": Named("hooks", "_fulfill"),
    }
    for cls, name, _ in before:
        if name in names and not (cls is classes[0] and name == "_fulfill_next_pending_request"):
            setattr(cls, name, names[name])
    cloudpickle.register_pickle_by_value(package)
    data: bytes = cloudpickle.dumps(package.PowerOfTwoChoicesRequestRouter)
    cloudpickle.unregister_pickle_by_value(package)
    for cls, name, value in before:
        if name in names:
            setattr(cls, name, value)
    return data


class Named:
    """Stands for a function that is pickled as its name."""

    def __init__(self, module: str, name: str) -> None:
        """Take the name of the function and of its module in `mantaray.serve`."""
        self._name = (module, name)

    def __reduce__(self) -> Any:
        module, name = self._name
        return getattr, ({"hooks": hooks, "routing": routing}[module], name)


async def burst(loop: Loop, cls: Any) -> list[int]:
    """Serve some requests with a router of a class; return in which order they were served."""
    router = make_router(loop)
    initialize(router, cls)
    replica = Replica(loop, 1, 0.05, 0.0002)
    router.request_router.update_replicas([replica])
    await asyncio.wait([ask(loop, router, number) for number in range(20)])
    return replica.served


def main() -> None:
    file = Path(sys.argv[1])
    if file.exists():
        # In the process that has pickled a class, loading it would change that very class.
        without_controller()
        print(json.dumps(simulated(burst, cloudpickle.loads(file.read_bytes()))))
        return
    file.write_bytes(of_version_01())
    patched = [module.__name__ for module in (router, replica)]
    actor = type("ServeReplica:a:B", (replica.ReplicaActor,), dict(replica.ReplicaActor.__dict__))
    metadata = RequestMetadata(request_id="1", internal_request_id="1")
    vars(metadata)[ROUTER] = "a router"
    pickles: dict[str, Any] = {
        "default router": RequestRouterConfig()._serialized_request_router_cls,
        "user's router": RequestRouterConfig(
            request_router_class=Last
        )._serialized_request_router_cls,
        "replica's actor": cloudpickle.dumps(actor),
        "metadata": pickle.dumps(metadata),
    }
    told = {
        name: {
            "names": data.count(b"mantaray.serve"),
            "needs": sorted(each for each in modules(data) if each.startswith("mantaray")),
        }
        for name, data in pickles.items()
    }
    print(json.dumps({"patched": patched, "pickles": told}))


main()
