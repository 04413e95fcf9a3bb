"""How many profiling links lead to the right process when two nodes share an address.

Two raylets on one address, the second with process ids of its own as in a container; workers on
both that can be told by a function on their stack. Two kinds of links are followed for each worker,
by stack trace and by CPU flame graph: the one that the served page carries (a link that is kept by
an older page has `ip` alone), and the one by address. A link counts when what it shows is the stack
of its own worker. Stock (`MANTARAY_DISABLE=1`) and Mantaray take turns, on both Rays.

    python benchmarks/profiling_links.py [--rounds N] [--workers N] [--json]

Needs root, for the process ids. The target: every link, on both Rays.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.profiled import Profiled, Worker, get, two_nodes_on_one_address
from tests.support.rays import VERSIONS, find_ray

ARMS = {"stock": {"MANTARAY_DISABLE": "1"}, "mantaray": {}}
KINDS = ("page", "ip")
PROFILERS = {"worker/traceback": "", "worker/cpu_profile": "&duration=1"}


def page_has_node_ids(profiled: Profiled) -> bool:
    """Return whether the links of the page that the dashboard serves carry node ids."""
    url = profiled.cluster.dashboard_url
    index = get(url).text
    script = index.partition('src="./')[2].partition('"')[0]
    text = get(f"{url}/{script}").text
    # A worker's link by pid, followed closely by the parameter.
    start = text.index("worker/traceback?pid=")
    return "&node_id=" in text[start : start + 80]


def follow(profiled: Profiled, worker: Worker, kind: str, by_node: bool) -> list[bool]:
    """Follow the links of one worker; return for each whether it showed the worker."""
    place = f"node_id={worker.node_id}" if kind == "page" and by_node else f"ip={profiled.ip}"
    right = []
    for path, more in PROFILERS.items():
        url = f"{profiled.cluster.dashboard_url}/{path}?pid={worker.pid}&{place}{more}"
        answer = get(url)
        shown = worker.frame in answer.text and profiled.other(worker).frame not in answer.text
        right.append(answer.status == 200 and shown)
    return right


def measure_arm(version: str, arm: str, workers: int) -> dict[str, list[bool]]:
    """Start a cluster, follow every link once; return what each kind of link showed."""
    with two_nodes_on_one_address(find_ray(version), **ARMS[arm]) as profiled:
        by_node = page_has_node_ids(profiled)
        every = [profiled.first, profiled.second]
        for _ in range(workers - 1):
            every += [profiled.new_worker("first"), profiled.new_worker("second")]
        return {
            kind: [ok for worker in every for ok in follow(profiled, worker, kind, by_node)]
            for kind in KINDS
        }


def measure(rounds: int, workers: int) -> list[dict[str, object]]:
    """Run both arms in turn on both Rays; return one row for each Ray, arm and kind of link."""
    seen: dict[tuple[str, str, str], list[bool]] = {}
    for _ in range(rounds):
        for version in VERSIONS:
            for arm in ARMS:
                for kind, right in measure_arm(version, arm, workers).items():
                    seen.setdefault((version, arm, kind), []).extend(right)
    return [
        {"ray": version, "arm": arm, "links": kind, "right": sum(right), "followed": len(right)}
        for (version, arm, kind), right in seen.items()
    ]


def main() -> int:
    """Measure, print, and return 0 only if every link of Mantaray's shows its own process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="clusters of each kind")
    parser.add_argument("--workers", type=int, default=3, help="workers on each node")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = measure(options.rounds, options.workers)
    holds = all(row["right"] == row["followed"] for row in rows if row["arm"] == "mantaray")
    if options.json:
        print(json.dumps({"rows": rows, "target": "every link", "holds": holds}))
        return 0 if holds else 1
    print("profiling links that show their own process, two nodes on one address")
    for row in rows:
        share = f"{row['right']} of {row['followed']}"
        print(f"  Ray {row['ray']}  {row['arm']:<9} links by {row['links']:<5} {share:>9}")
    print(f"target: every link with Mantaray: {'holds' if holds else 'MISSED'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
