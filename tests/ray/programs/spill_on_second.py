"""Spills on the node with the resource "second"; prints what was wrong and how much went to a directory."""

import sys

import ray
from spill_common import disk_bytes, is_intact, payload, report

directory = sys.argv[1]
SIZE, COUNT = 1_000_000, 160
ray.init(log_to_driver=False)


@ray.remote(num_cpus=0, resources={"second": 1})
def spill_and_read():
    refs = [ray.put(payload(number, SIZE)) for number in range(COUNT)]
    spilled_bytes = disk_bytes([directory])
    values = (ray.get(ref, timeout=150) for ref in refs)
    wrong = [number for number, value in enumerate(values) if not is_intact(number, value, SIZE)]
    return spilled_bytes, wrong


spilled_bytes, wrong = ray.get(spill_and_read.remote(), timeout=300)
report(spilled_bytes=spilled_bytes, wrong=wrong)
ray.shutdown()
