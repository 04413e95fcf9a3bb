"""Prints what a process with Mantaray pickles of Serve, and which modules each pickle needs.

The pickles are those that Serve keeps in checkpoints or sends to other processes.
"""

from __future__ import annotations

import json
import pickle
import pickletools
from typing import Any

from mantaray.serve.slots import ROUTER
from ray import cloudpickle
from ray.serve._private import replica, router
from ray.serve._private.common import RequestMetadata
from ray.serve.config import RequestRouterConfig
from serve_router_custom import Last


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


def main() -> None:
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
