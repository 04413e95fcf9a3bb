"""Objects of many sizes through the disk and back, under a bound on the file size from the environment."""

import sys

import ray
from spill_common import files, is_intact, payload, report, start

root, largest = sys.argv[1], int(sys.argv[2])
paths = start(root, store_mb=max(150, largest * 3 // 1_000_000))
SIZES = [0, 1, 102_401, 150_000, 1_000_000, 5_000_000, 30_000_000, largest]
refs = [(size, ray.put(payload(number, size))) for number, size in enumerate(SIZES * 2)]
empty = ray.put(b"")
filler = [ray.put(payload(1000 + i, 10_000_000)) for i in range(30)]
too_large = [size for _, size, links in files(paths).values() if size > 20_000_000 and links > 1]
wrong = [
    size for number, (size, ref) in enumerate(refs) if not is_intact(number, ray.get(ref), size)
]
report(
    wrong=wrong,
    empty=ray.get(empty) == b"",
    segments_beyond_20_mb=too_large,
    files=len(files(paths)),
)
ray.shutdown()
