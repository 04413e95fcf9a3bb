"""What `--suppress-noise` saves: sync messages of real raylets on which objects come and go.

One cluster, two relays of it, one with the option and one without, each with as many raylets. On
every raylet an actor puts objects at a steady rate and drops them all when there are 40, which moves
nothing but the bytes of its object store. Counted over the same seconds: what each relay sent to the
GCS and to its nodes. To its nodes each relay sends the other relay's updates too, and those are as
the other relay sends them.

    python benchmarks/sync_noise.py [--ray VERSION] [--nodes N] [--hz N] [--seconds N] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.cluster import Cluster
from tests.support.rays import find_ray, short_directory
from tests.support.relays import RelayProcess, add_nodes

ARMS = {"plain": (), "suppressed": ("--suppress-noise",)}
OBJECT_BYTES = 1_000_000
SENT = 'mantaray_relay_sync_messages_total{side="%s",direction="out"}'
HELD = "mantaray_relay_sync_noise_held_total"

# Arguments: seconds, rate, bytes of an object, names of nodes. Prints how many objects came and went.
WORKLOAD = """
import json, sys, time
import numpy, ray
seconds, hz, size = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
ray.init(log_to_driver=False)

@ray.remote(num_cpus=0)
class Churn:
    def run(self):
        done, begin, held = 0, time.monotonic(), []
        while time.monotonic() - begin < seconds:
            held.append(ray.put(numpy.zeros(size, numpy.uint8)))
            if len(held) == 40:
                held.clear()
            done += 1
            time.sleep(max(0.0, begin + done / hz - time.monotonic()))
        return done

churns = [Churn.options(resources={name: 0.1}).remote() for name in sys.argv[4:]]
print(json.dumps(sum(ray.get([churn.run.remote() for churn in churns]))))
"""


def read(relay: RelayProcess) -> dict[str, float]:
    """Return what a relay has counted."""
    return {
        "upstream": relay.metric(SENT % "upstream"),
        "downstream": relay.metric(SENT % "downstream"),
        "held": relay.metric(HELD),
    }


def measure(ray: str, nodes: int, hz: float, seconds: float) -> dict[str, Any]:
    """Run the workload; return messages a second for each arm."""
    env = find_ray(ray)
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(short_directory())
        cluster = stack.enter_context(Cluster(env, num_cpus=1))
        relays = {}
        names: list[str] = []
        for arm, options in ARMS.items():
            relays[arm] = RelayProcess(env, cluster.address, root, options)
            stack.enter_context(relays[arm])
            new = [f"{arm}{number}" for number in range(nodes)]
            add_nodes(cluster, relays[arm], new)
            names += new
        before = {arm: read(relay) for arm, relay in relays.items()}
        arguments = [str(seconds), str(hz), str(OBJECT_BYTES), *names]
        objects = cluster.run_program(WORKLOAD, arguments, timeout_s=seconds + 180)
        after = {arm: read(relay) for arm, relay in relays.items()}
    counted = {
        arm: {name: after[arm][name] - before[arm][name] for name in before[arm]} for arm in relays
    }
    return {"ray": ray, "nodes": nodes, "seconds": seconds, "objects": objects, **counted}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ray", default="2.60.0")
    parser.add_argument("--nodes", type=int, default=2, help="behind each relay")
    parser.add_argument("--hz", type=float, default=20, help="objects a second on each node")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    figures = measure(options.ray, options.nodes, options.hz, options.seconds)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"Ray {figures['ray']}, {figures['nodes']} raylets behind each of two relays, "
          f"{figures['objects']} objects in {figures['seconds']:g} s")  # fmt: skip
    print(f"{'relay':<14}{'to the GCS':>14}{'to its nodes':>14}{'held back':>14}")
    for arm in ARMS:
        row = "".join(f"{figures[arm][name]:>14.0f}" for name in ("upstream", "downstream", "held"))
        print(f"{arm:<14}{row}")


if __name__ == "__main__":
    main()
