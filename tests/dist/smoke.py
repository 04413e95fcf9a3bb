"""A cluster whose objects do not fit into its store, and garbage in a large heap, for the tests of wheels.

Run as: python smoke.py, in an environment with Ray and Mantaray. Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import platform
import time
import weakref
from pathlib import Path

import ray
from mantaray._native import spill
from mantaray.gc.service import SERVICE, can_search
from mantaray.overlay import status
from ray._private.internal_api import global_gc

SIZE_BYTES = 10_000_000
CONTAINERS = 1_000_000
SEARCH_TIMEOUT_S = 60


@ray.remote
def make(number: int) -> bytes:
    """Return an object that tells its number."""
    return bytes([number]) * SIZE_BYTES


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def collections() -> dict[str, float]:
    """Let an object in an old, large heap become garbage; return the collections until it is found."""
    assert SERVICE.collector is not None
    live = [[number] for number in range(CONTAINERS)]
    before = SERVICE.collector.counts.as_dict()
    knot = Knot()
    watch = weakref.ref(knot)
    gc.collect()
    del knot
    end_s = time.monotonic() + SEARCH_TIMEOUT_S
    while watch() is not None:
        assert time.monotonic() < end_s, "garbage in an old, large heap was not found"
        global_gc()
        time.sleep(1)
    assert len(live) == CONTAINERS
    after = SERVICE.collector.counts.as_dict()
    return {name: after[name] - before[name] for name in ("searches", "full")}


def main() -> None:
    """Spill and restore, find garbage, and say with what."""
    context = ray.init(
        address="local", num_cpus=1, object_store_memory=80_000_000, include_dashboard=False
    )
    refs = [make.remote(number) for number in range(30)]
    ray.wait(refs, num_returns=len(refs), fetch_local=False)
    session = Path(context.address_info["session_dir"])
    spilled = list(session.glob(f"{spill.NODE_DIRECTORY_PREFIX}*/*"))
    assert spilled, f"the engine spilled nothing into {session}"
    for number, ref in enumerate(refs):
        assert ray.get(ref) == bytes([number]) * SIZE_BYTES
    (state,) = [str(patch.state) for patch in status() if patch.name == "spill"]
    counts = collections()
    assert not can_search() or (counts["searches"] and not counts["full"]), counts
    said = {"python": platform.python_version(), "ray": ray.__version__, "spill": state}
    print(json.dumps(said))


main()
