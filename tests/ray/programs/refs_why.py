"""Several processes hold one object; what `mantaray refs why` and `refs top` say of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import ray


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


def main() -> None:
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
    told["outer"] = ray.get(cache.wrap.remote())
    told["why"] = command("why", ref.hex(), "--timeout-s", "60")[1]
    told["top"] = command("top", "--timeout-s", "60")[1]
    ray.get(cache.leak.remote())
    told["leaks"] = command("leaks", "--older-than", "1s", "--timeout-s", "60")[1]
    told["id"] = ref.hex()
    told["unknown"] = command("why", "ab" * 28, "--timeout-s", "60")
    told["no id"] = command("why", "xyz")
    # A process that hangs is named, and the others are told of all the same.
    os.kill(told["cache"], signal.SIGSTOP)
    try:
        told["hanging"] = command("why", ref.hex(), "--timeout-s", "5")[1]
    finally:
        os.kill(told["cache"], signal.SIGCONT)
    ray.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
