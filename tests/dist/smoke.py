"""A cluster whose objects do not fit into its store: run by the tests of the wheels, and by hand.

Run as: python smoke.py, in an environment with Ray and Mantaray. Prints one line of JSON.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import ray
from mantaray._native import spill
from mantaray.overlay import status

SIZE_BYTES = 10_000_000


@ray.remote
def make(number: int) -> bytes:
    """Return an object that tells its number."""
    return bytes([number]) * SIZE_BYTES


def main() -> None:
    """Spill and restore, and say with what."""
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
    said = {"python": platform.python_version(), "ray": ray.__version__, "spill": state}
    print(json.dumps(said))


main()
