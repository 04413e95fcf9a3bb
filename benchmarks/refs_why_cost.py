"""What `mantaray refs` costs a cluster whose processes hold very many references.

Each of ten actors holds 100,000 references. The commands run against the cluster as a user runs them. Two
threads of each actor wake every millisecond, and one of them makes and drops a reference each time. The
longest time between two turns of a thread is for how long it stopped. `ray memory` runs for comparison,
and so does a while in which nobody asks.

    python benchmarks/refs_why_cost.py [--processes N] [--references N] [--rays 2.48.0,2.60.0] [--json]
                                       [--commands nothing,why,top,...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import results
from ray_programs import RAYS, figures_of

PROCESSES = 10
REFERENCES = 100_000
RUNS = 3
COMMANDS = ("nothing", "why", "why --path", "top", "leaks", "ray memory")
TARGET_ANSWER_S = 2.0
TARGET_STOP_MS = 20.0
QUIET_S = 5.0
_STORE_BYTES = 1_500_000_000


def make_actor_class() -> Any:
    """Return the actor that holds references and watches its own stops."""
    import threading

    import ray

    class Holder:
        def __init__(self, references: int) -> None:
            # All but one are of objects that nobody owns, because a million puts take minutes. They
            # take the same place in the table, and their part of the answer is as long.
            self.refs = [ray.put(0)]
            self.refs += [ray.ObjectRef.from_random() for _ in range(references - 1)]
            self.longest = {"idle": 0.0, "using": 0.0}
            for kind in self.longest:
                threading.Thread(target=self.tick, args=(kind,), daemon=True).start()

        def tick(self, kind: str) -> None:
            last = time.perf_counter()
            while True:
                time.sleep(0.001)
                if kind == "using":
                    # Cheap for the machine, but it takes the lock of the process's table twice.
                    self.refs[-1] = ray.ObjectRef.from_random()
                now = time.perf_counter()
                self.longest[kind] = max(self.longest[kind], now - last)
                last = now

        def take_longest_ms(self) -> dict[str, float]:
            told = {kind: each * 1_000 for kind, each in self.longest.items()}
            self.longest = dict.fromkeys(self.longest, 0.0)
            return told

        def one(self) -> str:
            found: str = self.refs[0].hex()
            return found

        def ready(self) -> int:
            return len(self.refs)

    return ray.remote(num_cpus=0)(Holder)


def work(processes: int, references: int, asked: list[str]) -> dict[str, Any]:
    """Measure what is asked for with a cluster of its own."""
    import ray

    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as root:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=_STORE_BYTES,
            _temp_dir=root,
        )
        began = time.perf_counter()
        actors = [make_actor_class().remote(references) for _ in range(processes)]
        ray.get([actor.ready.remote() for actor in actors])
        figures: dict[str, Any] = {"filled_s": round(time.perf_counter() - began, 1)}
        address = ray.get_runtime_context().gcs_address
        wanted = ray.get(actors[0].one.remote())
        bin_dir = Path(sys.executable).parent
        refs = [str(bin_dir / "mantaray"), "refs"]
        at = ["--address", address]
        slow = ["--timeout-s", "60"]
        commands = {
            "nothing": None,
            "why": [*refs, "why", wanted, *at],
            "why --path": [*refs, "why", wanted, "--path", *at],
            "top": [*refs, "top", *at, *slow],
            "leaks": [*refs, "leaks", "--older-than", "1s", *at, *slow],
            "ray memory": [str(bin_dir / "ray"), "memory", *at],
        }
        time.sleep(2)
        for name in asked:
            command = commands[name]
            runs = [_one_run(actors, command) for _ in range(RUNS)]
            figures[name] = {
                key: round(sorted(run[key] for run in runs)[RUNS // 2], 2) for key in runs[0]
            } | {"worst_idle_stop_ms": round(max(run["idle_stop_ms"] for run in runs), 2)}
        ray.shutdown()
    return figures


def _one_run(actors: list[Any], command: list[str] | None) -> dict[str, float]:
    import ray

    ray.get([actor.take_longest_ms.remote() for actor in actors])
    began = time.perf_counter()
    if command is None:
        time.sleep(QUIET_S)
    else:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
        if done.returncode != 0 or "not asked" in done.stderr:
            raise SystemExit(f"{command} failed:\n{done.stdout[-2_000:]}{done.stderr}")
    took = time.perf_counter() - began
    longest = ray.get([actor.take_longest_ms.remote() for actor in actors])
    return {
        "answer_s": took,
        "idle_stop_ms": max(each["idle"] for each in longest),
        "using_stop_ms": max(each["using"] for each in longest),
    }


def holds(figures: dict[str, Any]) -> bool:
    """Return whether answers and stops are within what is claimed."""
    asked = [figures[name] for name in ("why", "why --path") if name in figures]
    return all(
        each["answer_s"] <= TARGET_ANSWER_S and each["idle_stop_ms"] <= TARGET_STOP_MS
        for each in asked
    )


def save(path: Path, figures: dict[str, dict[str, Any]], processes: int, references: int) -> None:
    """Keep the figures in a result file.

    Args:
        path: of the file.
        figures: of each Ray.
        processes: how many there were.
        references: how many each held.
    """
    kinds = {
        "answer_s": "answer",
        "idle_stop_ms": "stop",
        "using_stop_ms": "stop, using references",
    }
    head = ["command", *(f"{words}, {ray}" for ray in figures for words in kinds.values())]
    names = [name for name in next(iter(figures.values())) if name != "filled_s"]
    rows = [
        [name, *(_shown(key, each[name][key]) for each in figures.values() for key in kinds)]
        for name in names
    ]
    results.write(
        path,
        benchmark="benchmarks/refs_why_cost.py",
        conditions=(
            f"{processes} actors with {references:,} references each, two processors for all; all"
            " references but one are of objects that nobody owns"
        ),
        runs=f"medians of {RUNS} runs of each command",
        figures={"target.answer_s": TARGET_ANSWER_S, "target.stop_ms": TARGET_STOP_MS},
        tables={"cost": (head, rows)},
    )


def _shown(key: str, value: float) -> str:
    return f"{value:.1f} {'s' if key == 'answer_s' else 'ms'}"


def main() -> int:
    """Measure, print, and return 0 only if what is claimed holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--references", type=int, default=REFERENCES, help="in each process")
    parser.add_argument("--rays", default=",".join(RAYS), help="which Rays, separated by commas")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="separated by commas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", type=Path, help="keep the figures in this result file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        asked = options.commands.split(",")
        print(json.dumps(work(options.processes, options.references, asked)))
        return 0
    numbers = ["--processes", str(options.processes), "--references", str(options.references)]
    numbers += ["--commands", options.commands]
    rays = options.rays.split(",")
    figures = {
        ray: figures_of(ray, [__file__, "--work", *numbers], {}, timeout_s=900) for ray in rays
    }
    held = {ray: holds(each) for ray, each in figures.items()}
    if options.save:
        save(options.save, figures, options.processes, options.references)
    if options.json:
        print(json.dumps({"rays": figures, "holds": held}))
    else:
        for ray, each in figures.items():
            print(f"\nRay {ray}, filled in {each.pop('filled_s')} s")
            for name, told in each.items():
                print(
                    f"  {name:<12} {told['answer_s']:6.2f} s; longest stop of a thread that uses no"
                    f" reference {told['idle_stop_ms']:7.1f} ms, that does {told['using_stop_ms']:7.1f} ms"
                )
        print("\nholds" if all(held.values()) else f"\ndoes not hold: {held}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
