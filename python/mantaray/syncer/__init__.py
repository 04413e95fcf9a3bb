"""The relay between raylets and the GCS: start, stop and inspect one from Python.

    with Relay(upstream="10.0.0.1:6379", listen="0.0.0.0:6380") as relay:
        print(relay.status().streams)

The relay itself is a program, `mantaray relay`; docs/relay.md says when and how to use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mantaray.syncer.relay import Relay, RelayError, relay_program
    from mantaray.syncer.status import RelayStatus, StreamStatus, fetch_metrics, fetch_status

__all__ = [
    "Relay",
    "RelayError",
    "RelayStatus",
    "StreamStatus",
    "fetch_metrics",
    "fetch_status",
    "relay_program",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for. Every process of Ray imports this package, and few have a relay."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    of_relay = name in ("Relay", "RelayError", "relay_program")
    module = importlib.import_module("mantaray.syncer." + ("relay" if of_relay else "status"))
    return getattr(module, name)
