"""What a raylet got for Ray's spilling knobs, and whether puts that spill come back whole."""

import json
import os
import sys
from pathlib import Path

import psutil
import ray
from spill_common import disk_bytes, is_intact, payload, report, start

from mantaray import knobs

root, system_config = sys.argv[1:]
paths = start(root, store_mb=160, **json.loads(system_config))
left_behind = [
    name for name in (knobs.CHOSEN_VARIABLE, knobs.GRACE_PERIOD_S.variable) if name in os.environ
]
[raylet] = [p for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
environ = knobs.running_nodes()[raylet.pid]
refs = [ray.put(payload(number, 1_000_000)) for number in range(400)]
spilled_bytes = disk_bytes(paths)
logs = Path(root) / "t" / "session_latest" / "logs"
said = [
    line.split("spilling config: ")[1].strip()
    for line in (logs / "raylet.out").read_text().splitlines()
    if "object spilling config: min_spilling_size" in line
]
report(
    environ={knob.name: environ.get(knob.variable) for knob in knobs.KNOBS},
    chosen=knobs.chosen_in(environ),
    left_behind=left_behind,
    said=said,
    spilled_bytes=spilled_bytes,
    wrong=[n for n, ref in enumerate(refs) if not is_intact(n, ray.get(ref), 1_000_000)],
)
ray.shutdown()
