"""Five leaks that users meet, live at once, and what `ray memory` and `mantaray refs` say of each."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray

BYTES = 200_000


@ray.remote(num_cpus=0)
class Cache:
    """Puts results into a list that nobody empties."""

    def __init__(self) -> None:
        self.results: list[Any] = []

    def add(self) -> str:
        self.results.append(ray.put(bytes(BYTES)))
        found: str = self.results[-1].hex()
        return found


def make_task() -> tuple[Any, str]:
    """Return a remote function that holds a reference of this function's, and the object's id."""
    table = ray.put(bytes(BYTES))

    @ray.remote(num_cpus=0)
    def use() -> int:
        return len(ray.get(table))

    return use, table.hex()


@ray.remote(num_cpus=0)
class Loader:
    """Keeps the last exception, whose traceback keeps the frames, whose variables keep the object."""

    def __init__(self) -> None:
        self.last_error: Exception | None = None

    def load(self) -> str:
        try:
            self.parse()
        except ValueError as error:
            self.last_error = error
        found: str = self.last_error.args[0]
        return found

    def parse(self) -> None:
        batch = ray.put(bytes(BYTES))
        raise ValueError(batch.hex())


class Node:
    """Refers to itself, as trees with parents do."""

    def __init__(self, value: Any) -> None:
        self.parent = self
        self.value = value


@ray.remote(num_cpus=0)
class Trees:
    """Drops a cycle with a reference in it; its heap is not collected soon."""

    def build(self) -> str:
        gc.disable()
        node = Node(ray.put(bytes(BYTES)))
        found: str = node.value.hex()
        return found


@ray.remote(num_cpus=0)
class Registry:
    """Lives long, and keeps a reference that its caller lent to it."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {}

    def register(self, name: str, refs: list[Any]) -> None:
        self.latest[name] = refs[0]


def lend(registry: Any) -> str:
    """Lend an object and drop it."""
    model = ray.put(bytes(BYTES))
    ray.get(registry.register.remote("model", [model]))
    found: str = model.hex()
    return found


def output_of(*command: str) -> str:
    """Return what a command of this environment prints."""
    program = Path(sys.executable).parent / command[0]
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [program, *command[1:], "--address", address],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
    )
    cache, loader, trees, registry = (
        Cache.remote(),
        Loader.remote(),
        Trees.remote(),
        Registry.remote(),
    )
    task, closure = make_task()
    ray.get(task.remote())
    ids = {
        "list in an actor": ray.get(cache.add.remote()),
        "closure in a remote function": closure,
        "exception traceback": ray.get(loader.load.remote()),
        "reference cycle": ray.get(trees.build.remote()),
        "borrowed by a long-lived actor": lend(registry),
    }
    patient = ("--timeout-s", "60")
    memory = output_of("ray", "memory", "--no-format").splitlines()
    leaks = json.loads(
        output_of("mantaray", "refs", "leaks", "--older-than", "1s", *patient, "--json")
    )
    top = json.loads(output_of("mantaray", "refs", "top", *patient, "--json"))
    told: dict[str, Any] = {}
    for name, object_id in ids.items():
        why = ("mantaray", "refs", "why", object_id, "--path", "--path-timeout-s", "60", *patient)
        # One command for each form would take twice as long.
        said = json.loads(output_of(*why, "--max-stop-ms", "1000", "--json"))
        told[name] = {
            "id": object_id,
            "ray memory": [line for line in memory if object_id in line],
            "why": said,
            "leaks": [leak for leak in leaks if leak["example"] == object_id],
            "top": [each for each in top if each["object_id"] == object_id],
        }
    ray.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
