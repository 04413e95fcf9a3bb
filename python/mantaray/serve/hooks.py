"""Names that Mantaray 0.1 left in pickles; each stands for the method of Ray that it replaced.

Mantaray 0.1 put functions of this module into the classes of request routers, which Serve pickles by value
since 2.52. Checkpoints and processes of 0.1 still send such classes. Here they load, and what is needed is
attached to the router object as to any other (see `attach`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

_MODULE = "ray.serve._private.request_router.request_router"


def _of_ray(name: str, owner: str = "RequestRouter") -> Callable[..., Any]:
    def method(router: Any, *args: Any, **kwargs: Any) -> Any:
        cls = vars(importlib.import_module(_MODULE))[owner]
        return vars(cls)[name](router, *args, **kwargs)

    return method


choose_replicas_with_backoff = _of_ray("_choose_replicas_with_backoff")
_select = _of_ray("_select_from_candidate_replicas")
_choose_for = _of_ray("_choose_replica_for_request")
_probe = _of_ray("_probe_queue_lens")
_heard = _of_ray("on_new_queue_len_info")
_update = _of_ray("update_replicas")
_send = _of_ray("on_send_request")
_complete = _of_ray("decrement_queue_len_cache")
_fulfill = _of_ray("_fulfill_next_pending_request", "FIFOMixin")
