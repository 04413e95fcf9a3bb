"""The relay between raylets and the GCS: start, stop and inspect one from Python.

    with Relay(upstream="10.0.0.1:6379", listen="0.0.0.0:6380") as relay:
        print(relay.status().streams)

The relay itself is a program, `mantaray relay`; docs/relay.md says when and how to use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mantaray.lazy import fetching

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
_OF_STATUS = ("RelayStatus", "StreamStatus", "fetch_metrics", "fetch_status")
__getattr__ = fetching(
    __name__, {name: "status" if name in _OF_STATUS else "relay" for name in __all__}
)
