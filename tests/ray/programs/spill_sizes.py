"""Objects of many sizes through several disks and IO workers and back, under a bound on the file size."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import ray
from spill_common import disk_bytes, files, is_intact, names_below, payload, report, start

root, largest, system_config = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
paths = start(
    root,
    directories=sys.argv[4:] or ("a", "b", "c"),
    store_mb=max(150, largest * 3 // 1_000_000),
    max_io_workers=3,
    **system_config,
)


def workers_of(directories):
    """The directories of the IO workers that have spilled something that is still there."""
    return {
        part for name in names_below(directories) for part in name.split("/") if part[:1] == "w"
    }


SIZES = [0, 1, 102_401, 150_000, 1_000_000, 5_000_000, 30_000_000, largest]
began = time.monotonic()
refs = [(size, ray.put(payload(number, size))) for number, size in enumerate(SIZES * 2)]
empty = ray.put(b"")
# Enough of them that everything above is spilled, and faster than one IO worker can take.
filler_value = payload(1000, max(10_000_000, largest // 10))
filler = [ray.put(filler_value) for _ in range(30)]
for _ in range(10):
    if len(workers_of(paths)) > 1:
        break
    with ThreadPoolExecutor(3) as pool:
        filler = list(pool.map(lambda _: ray.put(filler_value), range(30)))
spill_s = time.monotonic() - began
spilled_bytes = disk_bytes(paths)
too_large = [size for _, size, links in files(paths).values() if size > 20_000_000 and links > 1]
workers = workers_of(paths)
found = {"files": len(files(paths)), "directories": sum(disk_bytes([path]) > 0 for path in paths)}
began = time.monotonic()
wrong = [
    size for number, (size, ref) in enumerate(refs) if not is_intact(number, ray.get(ref), size)
]
report(
    wrong=wrong,
    empty=ray.get(empty) == b"",
    segments_beyond_20_mb=too_large,
    workers=len(workers),
    spilled_bytes=spilled_bytes,
    spill_s=round(spill_s, 1),
    verify_s=round(time.monotonic() - began, 1),
    **found,
)
ray.shutdown()
