"""Spill and restore at engine level: Ray's own FileSystemStorage against Mantaray's, interleaved.

Both classes run in this process, batch by batch in turn, on the same directory and the same bytes in
shared memory; only the object store's client is replaced (objects come from and go to shared memory
directly). Every figure is a median over batches; Mantaray's include its checksums. Files pile up
while a size is measured, as they do on a node that spills.

    python benchmarks/spill_engine.py [--quick] [--json] [--directory DIR]
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

BATCH_BYTES = 100_000_000
SIZES = (102_401, 150_000, 1_000_000, 10_000_000, 100_000_000)
OWNER = b"o" * 120


class Ref:
    """As much of an ObjectRef as a storage looks at."""

    def __init__(self) -> None:
        self._id = random.randbytes(28)

    def binary(self) -> bytes:
        return self._id

    def hex(self) -> str:
        return self._id.hex()


def shared_memory(size_bytes: int) -> memoryview:
    """Anonymous shared memory full of random bytes, touched, as a warm object store is."""
    area = mmap.mmap(-1, size_bytes)
    block = random.randbytes(1 << 20)
    for _ in range(0, size_bytes, len(block)):
        area.write(block[: min(len(block), size_bytes - area.tell())])
    return memoryview(area)


def on_shared_memory(storage_class: type, source: memoryview, target: memoryview) -> type:
    """The storage class with its object store replaced by shared memory."""

    class OnSharedMemory(storage_class):  # type: ignore[misc]
        object_bytes = 0

        def _get_objects_from_store(self, refs: list[Ref]) -> list[tuple[Any, bytes, None]]:
            size = self.object_bytes
            return [(source[i * size : (i + 1) * size], b"PYTHON", None) for i in range(len(refs))]

        def _put_object_to_store(
            self, metadata: bytes, size: int, file: Any, ref: Ref, owner: bytes
        ) -> None:
            view, done = target[:size], 0
            while done < size:
                done += file.readinto(view[done:])

    return OnSharedMemory


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - started, result


def restore_one_by_one(storage: Any, refs: list[Ref], urls: list[bytes]) -> None:
    for ref, url in zip(refs, urls, strict=True):
        storage.restore_spilled_objects([ref], [url])


def forget_cache(directory: str) -> None:
    """Write back and drop the page cache of every file below the directory."""
    os.sync()
    for parent, _, names in os.walk(directory):
        for name in names:
            fd = os.open(os.path.join(parent, name), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def measure_size(
    classes: dict[str, type], size: int, batches: int, directory: str
) -> dict[str, Any]:
    """Return {operation: {name: [MB/s, ...]}} for one object size."""
    count = max(1, BATCH_BYTES // size)
    megabytes = count * size / 1e6
    rates: dict[str, dict[str, list[float]]] = {
        operation: {name: [] for name in classes}
        for operation in ("spill", "restore", "cold restore")
    }
    storages = {}
    for name, storage_class in classes.items():
        params = {"directory_path": [directory]}
        config = {"type": "filesystem", "params": params}
        storages[name] = (
            storage_class(name, **params) if name == "stock" else storage_class(name, config)
        )
        storages[name].object_bytes = size
    refs = [Ref() for _ in range(count)]
    urls: dict[str, list[list[bytes]]] = {name: [] for name in classes}
    for batch in range(batches):
        order = list(classes) if batch % 2 == 0 else list(classes)[::-1]
        for name in order:
            fresh = [Ref() for _ in range(count)] if batch else refs
            seconds, made = timed(storages[name].spill_objects, fresh, [OWNER] * count)
            rates["spill"][name].append(megabytes / seconds)
            urls[name].append(made)
    forget_cache(directory)
    for operation in ("cold restore", "restore", "restore", "restore"):
        for name in classes:
            if operation == "cold restore":
                forget_cache(directory)
            seconds, _ = timed(restore_one_by_one, storages[name], refs, urls[name][0])
            rates[operation][name].append(megabytes / seconds)
    for _ in range(2):
        for name in classes:
            forget_cache(directory)
            seconds, _ = timed(restore_one_by_one, storages[name], refs, urls[name][0])
            rates["cold restore"][name].append(megabytes / seconds)
    for storage in storages.values():
        storage.destroy_external_storage()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer batches")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--directory", help="where to spill; a temporary directory by default")
    arguments = parser.parse_args()
    # Only the class is needed here; nothing of a running Ray is replaced.
    os.environ["MANTARAY_PATCHES"] = "-spill"
    import ray
    from mantaray.spill.storage import make_storage_class
    from ray._private import external_storage

    area = max(SIZES) + (1 << 20)
    source, target = shared_memory(area + BATCH_BYTES), shared_memory(area)
    classes = {
        "stock": on_shared_memory(external_storage.FileSystemStorage, source, target),
        "mantaray": on_shared_memory(make_storage_class(external_storage), source, target),
    }
    directory = tempfile.mkdtemp(prefix="mantaray-bench-", dir=arguments.directory)
    rows = []
    try:
        for size in SIZES:
            print(f"measuring objects of {size:,} bytes ...", file=sys.stderr)
            rates = measure_size(classes, size, 4 if arguments.quick else 10, directory)
            for operation, by_name in rates.items():
                stock, ours = (statistics.median(by_name[name]) for name in classes)
                rows.append(
                    {
                        "object_bytes": size,
                        "operation": operation,
                        "stock_mb_s": round(stock),
                        "mantaray_mb_s": round(ours),
                        "ratio": round(ours / stock, 2),
                    }
                )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.json:
        print(json.dumps({"ray": ray.__version__, "rows": rows}))
        return
    print(f"Ray {ray.__version__}; MB/s, medians, checksums included")
    print(f"{'object bytes':>14}  {'operation':<14}{'stock':>8}{'mantaray':>10}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['object_bytes']:>14,}  {row['operation']:<14}{row['stock_mb_s']:>8}"
            f"{row['mantaray_mb_s']:>10}{row['ratio']:>8}"
        )


if __name__ == "__main__":
    main()
