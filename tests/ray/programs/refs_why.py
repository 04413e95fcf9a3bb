"""Several processes hold one object; what `mantaray refs why` and `refs top` say of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray

# The method whose slot finalizers borrow while they look for the counter.
OWNER = "_ZNK3ray4core16ReferenceCounter16GetOwnerInternalERKNS_8ObjectIDEPNS_3rpc7AddressE"


@ray.remote(num_cpus=0)
class Cache:
    """Keeps references, and puts one into an object of its own."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, refs: list[Any]) -> int:
        self.kept += refs
        return os.getpid()

    def wrap(self) -> str:
        self.kept.append(ray.put([self.kept[0]]))
        outer: str = self.kept[1].hex()
        return outer

    def leak(self) -> int:
        self.kept += [ray.put(bytes(200_000)) for _ in range(3)]
        return len(self.kept)


def command(*arguments: str) -> tuple[int, Any, str]:
    """Run `mantaray refs ... --json`; return its status, its JSON and what it wrote to stderr."""
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-m", "mantaray.cli", "refs", *arguments, "--json", "--address", address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def by_age(outer: str) -> Any:
    """Return the list by age, once Ray has reported the task that made the outer object."""
    for _ in range(20):
        found = command("top", "--by", "age", "--timeout-s", "60")[1]
        starts = {each["object_id"]: each["made_after"] for each in found}
        # Until then it counts as begun with its job, like what the driver has put.
        if starts[outer] > min(starts.values()):
            break
        time.sleep(1)
    return found


def idle() -> dict[str, Any]:
    """Return what finalizers cost this process, which has none."""
    from mantaray._native import interpose

    library = ray._raylet.__file__
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "loaded": [name for name in sys.modules if name.startswith("mantaray.refs.")],
        "slot is Ray's": interpose.held(library, OWNER) == interpose.definition(library, OWNER),
    }


def from_afar(address: str, object_id: str) -> dict[str, Any]:
    """Ask the holders as if they were on another node: through a task there."""
    from mantaray.refs import paths
    from mantaray.refs.cluster import ask

    question = paths.Question(object_id, timeout_s=60, max_stop_ms=5_000)
    holders = [each for each in ask(address, object_id, 60.0) if each.held]
    # A process that has ended, in the place of one without Mantaray.
    gone = dataclasses.replace(holders[0], worker_id="ab" * 28)
    found = paths.ask_far(address, question, [*holders, gone])
    return {
        "near": [paths.is_near(each) for each in holders],
        "paths": [found[each.worker_id].paths for each in holders],
        "gone": found[gone.worker_id].problem,
    }


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps(from_afar(*sys.argv[1:])))
        return
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
    )
    ref = ray.put(bytes(1_000_000))
    cache = Cache.options(name="cache").remote()
    told: dict[str, Any] = {"driver": os.getpid(), "cache": ray.get(cache.keep.remote([ref]))}
    told["id"] = ref.hex()
    told["outer"] = ray.get(cache.wrap.remote())
    picture = Path("holders.svg").absolute()
    path = ("--path", "--path-timeout-s", "60", "--max-stop-ms", "5000", "--svg", str(picture))
    told["why"] = command("why", ref.hex(), "--timeout-s", "60", *path)[1]
    told["svg"] = picture.read_text() if picture.exists() else None
    for by in ("size", "holder", "line"):
        told[f"by {by}"] = command("top", "--by", by, "--timeout-s", "60")[1]
    told["by age"] = by_age(told["outer"])
    ray.get(cache.leak.remote())
    told["leaks"] = command("leaks", "--older-than", "1s", "--timeout-s", "60")[1]
    told["idle"] = idle()
    told["unknown"] = command("why", "ab" * 28, "--timeout-s", "60")
    told["no id"] = command("why", "xyz")
    asked = [sys.executable, __file__, ray.get_runtime_context().gcs_address, told["id"]]
    afar = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=True)
    told["afar"] = json.loads(afar.stdout.splitlines()[-1])
    # A process that hangs is named, and the others are told of all the same.
    os.kill(told["cache"], signal.SIGSTOP)
    try:
        told["hanging"] = command("why", ref.hex(), "--timeout-s", "5")[1]
    finally:
        os.kill(told["cache"], signal.SIGCONT)
    told["end_s"] = time.time()
    ray.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
