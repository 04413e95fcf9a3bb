"""Spills, restores and deletes, and reads what the node's metrics port says of it."""

import sys
import urllib.request

import numpy as np
import ray
from spill_common import disk_bytes, io_workers, report, start, wait_until

root = sys.argv[1]
paths = start(root, store_mb=100, metrics_report_interval_ms=1000)
(node,) = ray.nodes()
address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
PREFIX = "ray_mantaray_spill_"


def metrics():
    """The values of spilling, by name, with the operation and the class of a histogram."""
    found = {}
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return found
    for line in lines:
        if not line.startswith(PREFIX):
            continue
        labels, _, value = line.rpartition(" ")
        name, _, tags = labels.removeprefix(PREFIX).partition("{")
        for tag in ("Operation", "le"):
            if f'{tag}="' in tags:
                name += "/" + tags.partition(f'{tag}="')[2].partition('"')[0]
        assert name not in found, lines
        found[name] = float(value)
    return found


refs = [ray.put(np.full(1_000_000, i % 200, np.uint8)) for i in range(400)]
values = [int(ray.get(ref)[0]) for ref in refs[:50]]
workers = len(io_workers())
full = wait_until(
    lambda: metrics().get("disk_bytes", 0) > 200_000_000 and metrics()["restored_objects"] > 0
)
before = metrics()
on_disk = disk_bytes(paths)
del refs
emptied = wait_until(
    lambda: metrics()["live_bytes"] < 20_000_000 and metrics()["deleted_objects"] > 200
)
report(
    full=full,
    emptied=emptied,
    right=values == [i % 200 for i in range(50)],
    before=before,
    on_disk=on_disk,
    after=metrics(),
    workers=workers,
)
ray.shutdown()
