"""What finalizers cost: making them, hearing of the end of an object, and looking at 100,000 others.

Three figures for each Ray, each from a cluster of its own. "fired" is the time for 100,000 finalizers to
be made and, after all references were dropped at once, to be called. "latency" is the time from the drop
of a last reference to the call, alone, beside 100,000 live references, and among 1,000, 10,000 and
100,000 finalizers. "cost" is the processor time
of the process and the worst pause of a Python thread beside 100,000 live references, without
finalizers, with one, and with one for each; where Ray calls back there is nothing to look at.

    python benchmarks/refs_finalize.py [--objects N] [--rays 2.48.0,2.60.0] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

from ray_programs import RAYS, figures_of

OBJECTS = 100_000
# Enough for a 99th percentile that is not the longest of all.
DROPS = 200
IDLE_S = 5.0
# The 99th percentile, however many finalizers there are.
TARGET_DELAY_MS = 5.0
TARGET_CPU = 0.12


def latencies_ms(drops: int) -> dict[str, float]:
    """Drop a last reference again and again, at odd moments; return the times until the call."""
    import ray
    from mantaray.refs import finalize

    took = []
    for number in range(drops):
        called = threading.Event()
        ref = ray.put(number)
        finalize(ref, called.set)
        time.sleep(0.05 + 0.007 * (number % 13))
        before = time.perf_counter()
        del ref
        if not called.wait(60):
            raise SystemExit("a finalizer was not called within a minute")
        took.append((time.perf_counter() - before) * 1_000)
    took.sort()
    return {
        "p50_ms": round(statistics.median(took), 2),
        "p99_ms": round(took[min(len(took) - 1, int(len(took) * 0.99))], 2),
        "max_ms": round(took[-1], 2),
    }


def idle_cost(seconds: float) -> dict[str, float]:
    """Do nothing for a while; return the share of a processor used, and the worst pause of a thread."""
    worst, done = 0.0, threading.Event()

    def tick() -> None:
        nonlocal worst
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.002)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    thread = threading.Thread(target=tick)
    before, start = time.process_time(), time.perf_counter()
    thread.start()
    time.sleep(seconds)
    used, took = time.process_time() - before, time.perf_counter() - start
    done.set()
    thread.join()
    return {"cpu": round(used / took, 4), "worst_pause_ms": round(worst * 1_000, 1)}


def work(objects: int) -> dict[str, Any]:
    """Measure everything in this process, with a cluster of its own."""
    import ray
    from mantaray.refs import finalize

    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as root:
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=500_000_000,
            _temp_dir=root,
        )
        figures: dict[str, Any] = {"alone": latencies_ms(DROPS)}
        refs = [ray.put(0) for _ in range(objects)]
        time.sleep(2)
        figures["cost_none"] = idle_cost(IDLE_S)
        figures["beside"] = latencies_ms(DROPS)
        one = finalize(refs[0], print)
        figures["cost_one"] = idle_cost(IDLE_S)
        one.detach()
        called = [0]

        def count() -> None:
            called[0] += 1

        made_s, made = 0.0, 0
        figures["among"] = {}
        for number in sorted({objects // 100, objects // 10, objects}):
            before = time.perf_counter()
            for ref in refs[made:number]:
                finalize(ref, count)
            made_s += time.perf_counter() - before
            made = number
            time.sleep(2)
            figures["among"][number] = latencies_ms(DROPS)
        figures["made_us_each"] = round(made_s / objects * 1e6, 2)
        figures["cost_all"] = idle_cost(IDLE_S)
        figures["early"] = called[0]
        before = time.perf_counter()
        del refs, ref
        figures["dropped_s"] = round(time.perf_counter() - before, 2)
        while called[0] < objects and time.perf_counter() - before < 120:
            time.sleep(0.01)
        figures["fired_s"] = round(time.perf_counter() - before, 2)
        time.sleep(1)
        figures["called"] = called[0]
        ray.shutdown()
    return figures


def run(ray_version: str, objects: int) -> dict[str, Any]:
    """Measure with one Ray, in a process of its own."""
    command = [__file__, "--work", "--objects", str(objects)]
    figures: dict[str, Any] = figures_of(ray_version, command, {})
    return figures


def holds(figures: dict[str, Any], objects: int) -> bool:
    """Return whether each was called once, and delay and cost are within what is claimed."""
    return bool(
        figures["called"] == objects
        and figures["early"] == 0
        and max(each["p99_ms"] for each in _delays(figures)) <= TARGET_DELAY_MS
        and figures["cost_all"]["cpu"] - figures["cost_none"]["cpu"] <= TARGET_CPU
    )


def _delays(figures: dict[str, Any]) -> list[dict[str, float]]:
    return [figures["alone"], figures["beside"], *figures["among"].values()]


def print_table(ray_version: str, figures: dict[str, Any], objects: int) -> None:
    """Print the figures of one Ray."""
    print(f"\nRay {ray_version}")
    print(f"  made               {figures['made_us_each']:8.2f} us each")
    print(f"  {objects} references dropped in {figures['dropped_s']:.2f} s;", end=" ")
    print(
        f"{figures['called']} finalizers called {figures['fired_s']:.2f} s after the start of that"
    )
    for name, words in (("alone", "alone"), ("beside", f"beside {objects} references")):
        delay = figures[name]
        print(
            f"  latency {words:<26} p50 {delay['p50_ms']:7.2f}  p99 {delay['p99_ms']:7.2f} ms"
            f"  (target: p99 <= {TARGET_DELAY_MS:.0f} ms)"
        )
    for number, delay in figures["among"].items():
        print(
            f"  latency among {number:>7} finalizers   p50 {delay['p50_ms']:7.2f}"
            f"  p99 {delay['p99_ms']:7.2f} ms"
        )
    for name, words in (("none", "no finalizer"), ("one", "one"), ("all", "one for each")):
        cost = figures[f"cost_{name}"]
        print(
            f"  cost with {words:<16} {cost['cpu'] * 100:6.2f} % of a processor,"
            f" worst pause {cost['worst_pause_ms']:6.1f} ms"
        )


def main() -> int:
    """Measure, print, and return 0 only if what is claimed holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=OBJECTS, help="live references")
    parser.add_argument("--rays", default=",".join(RAYS), help="which Rays, separated by commas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.objects)))
        return 0
    rays = options.rays.split(",")
    figures = {ray: run(ray, options.objects) for ray in rays}
    held = {ray: holds(each, options.objects) for ray, each in figures.items()}
    if options.json:
        print(json.dumps({"objects": options.objects, "rays": figures, "holds": held}))
    else:
        for ray in rays:
            print_table(ray, figures[ray], options.objects)
        print("\nholds" if all(held.values()) else f"\ndoes not hold: {held}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
