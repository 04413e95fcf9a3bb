"""The last ten lines of logs from 10 KB to 10 GB: stock Ray's function and Mantaray's, in turn.

Every measurement is a process of its own: time, and peak memory above what the process had before. Files
of many lines, and files that are one line of progress bars rewritten with carriage returns. They are
written in full up to 1.1 GB; the larger ones are that text behind a hole, which reads as zeros. Stock Ray
2.48 has no such function; it reads the whole file (that is what is measured there). Stock Ray is not asked
for what it would take more than a minute or 10 GB for: it gets the files up to 1.1 GB.

    python benchmarks/log_tail.py [--quick] [--json] [--directory DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

SIZES = {"10 KB": 10_000, "10 MB": 10_000_000, "1.1 GB": 1_100_000_000, "10 GB": 10_000_000_000}
WRITTEN_BYTES = 1_100_000_000
STOCK_LIMIT_BYTES = 1_100_000_000
TARGET_MS, TARGET_MB = 10, 20
SHAPES = {
    "lines": b"2026-01-01 00:00:00,000 INFO worker.py:42 -- a line of an ordinary log file, number 1\n",
    "bars": b"\r 42%|##########                | 4200/10000 [00:42<01:00, 99.99it/s]",
}
MEASURE = """
import asyncio, gc, os, resource, sys, time
os.environ["MANTARAY_DISABLE"] = "1"
arm, path = sys.argv[1:]
if arm == "mantaray":
    from mantaray.logs import tail
    call = lambda: tail(path, 10, 20000)
else:
    from ray.dashboard.modules.job import job_log_storage_client as module
    client = module.JobLogStorageClient()
    client.get_log_file_path = lambda job_id: path
    call = lambda: asyncio.run(client.get_last_n_log_lines("job"))
gc.collect()
before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
text = call()
seconds = time.perf_counter() - started
after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seconds * 1e3, (after_kb - before_kb) / 1e3, len(text))
"""


def make_file(directory: str, shape: str, size_bytes: int) -> str:
    """Write a log file of that shape and size; return its path."""
    path = os.path.join(directory, f"{shape}-{size_bytes}")
    piece = SHAPES[shape] * 10_000
    with open(path, "wb") as file:
        file.seek(max(0, size_bytes - WRITTEN_BYTES))
        while file.tell() < size_bytes:
            file.write(piece[: size_bytes - file.tell()])
    return path


def measure(arm: str, path: str) -> tuple[float, float]:
    """Return milliseconds and megabytes of one call in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, arm, path], stdout=subprocess.PIPE, text=True, check=True
    )
    took_ms, memory_mb, _ = map(float, done.stdout.split())
    return took_ms, memory_mb


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="stock Ray up to 10 MB only")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--directory", help="where to write the files; the temporary one by default"
    )
    arguments = parser.parse_args()
    limit_bytes = 10_000_000 if arguments.quick else STOCK_LIMIT_BYTES
    rows = []
    directory = tempfile.mkdtemp(prefix="mantaray-logs-", dir=arguments.directory)
    try:
        for shape in SHAPES:
            for size, size_bytes in SIZES.items():
                print(f"{shape}, {size} ...", file=sys.stderr)
                path = make_file(directory, shape, size_bytes)
                runs: dict[str, list[tuple[float, float]]] = {"stock": [], "mantaray": []}
                for number in range(3):
                    if size_bytes <= limit_bytes and (number == 0 or size_bytes < WRITTEN_BYTES):
                        runs["stock"].append(measure("stock", path))
                    runs["mantaray"].append(measure("mantaray", path))
                os.unlink(path)
                row: dict[str, object] = {"shape": shape, "size": size}
                for arm, seen in runs.items():
                    for index, unit in enumerate(("ms", "mb")):
                        values = [one[index] for one in seen]
                        row[f"{arm}_{unit}"] = (
                            round(statistics.median(values), 2) if values else None
                        )
                rows.append(row)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.json:
        print(json.dumps({"target_ms": TARGET_MS, "target_mb": TARGET_MB, "rows": rows}))
        return
    print(f"{'shape':<8}{'size':<8}{'stock ms':>12}{'MB':>8}{'mantaray ms':>14}{'MB':>8}")
    for row in rows:
        cells = [
            "-" if row[key] is None else f"{row[key]:,.1f}" for key in ("stock_ms", "stock_mb")
        ]
        print(
            f"{row['shape']:<8}{row['size']:<8}{cells[0]:>12}{cells[1]:>8}"
            f"{row['mantaray_ms']:>14,.1f}{row['mantaray_mb']:>8,.1f}"
        )
    print(f"targets: under {TARGET_MS} ms and {TARGET_MB} MB at every size")


if __name__ == "__main__":
    main()
