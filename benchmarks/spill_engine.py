"""Spill and restore at engine level: Ray's own FileSystemStorage against Mantaray's, interleaved.

Both classes run in this process, batch by batch in turn, on the same directory and the same bytes in
shared memory; only the object store's client is replaced (objects come from and go to shared memory
directly). Every figure is a median over batches; Mantaray's include its checksums. Files pile up
while a size is measured, as they do on a node that spills.

`spill` ends when the storage returns, `spill to disk` when the data is on the disk: stock Ray returns as
soon as the page cache has it. `disk` is what the disk does with nothing else to do, measured in the same
turns: one file, written or read past the page cache in pieces of 4 MB. Data that is to be on the disk, or
comes from it, cannot be faster. (`restore` is from the page cache, where the disk has no say.) How fast the
page cache takes what stock Ray spills depends on the machine's history: where that memory is new to a
virtual machine, it takes several times as long as where it was used a moment ago. So every size starts
after a pause in which freed memory can go back to the host.

    python benchmarks/spill_engine.py [--quick] [--json] [--directory DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
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
SETTLE_S = 6.0


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


def make_storage(name: str, storage_class: type, directory: str, object_bytes: int) -> Any:
    """A storage on that directory; "stock" is made as Ray makes its own."""
    params = {"directory_path": [directory]}
    config = {"type": "filesystem", "params": params}
    storage: Any = storage_class(name, **params) if name == "stock" else storage_class(name, config)
    storage.object_bytes = object_bytes
    return storage


class Disk:
    """What the disk does past the page cache, with one large aligned buffer."""

    PIECE_BYTES = 4 << 20

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "disk-alone")
        huge = 2 << 20
        area = mmap.mmap(-1, self.PIECE_BYTES + huge, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_HUGEPAGE)
        whole = memoryview(area)
        start = -ctypes.addressof(ctypes.c_char.from_buffer(area)) % huge
        self._piece = whole[start : start + self.PIECE_BYTES]
        self._piece[:] = random.randbytes(self.PIECE_BYTES)

    def write(self) -> float:
        """Write BATCH_BYTES into a fresh file; return MB/s."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        return self._run(os.O_CREAT | os.O_WRONLY, os.writev)

    def read(self) -> float:
        """Read them; return MB/s."""
        return self._run(os.O_RDONLY, os.readv)

    def _run(self, flags: int, call: Callable[[int, list[memoryview]], int]) -> float:
        count = BATCH_BYTES // self.PIECE_BYTES
        started = time.perf_counter()
        fd = os.open(self._path, flags | os.O_DIRECT, 0o600)
        if flags & os.O_CREAT:
            os.posix_fallocate(fd, 0, count * self.PIECE_BYTES)
        for _ in range(count):
            call(fd, [self._piece])
        os.close(fd)
        return count * self.PIECE_BYTES / 1e6 / (time.perf_counter() - started)


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - started, result


def restore_one_by_one(storage: Any, objects: list[tuple[Ref, bytes]]) -> None:
    for ref, url in objects:
        storage.restore_spilled_objects([ref], [url])


def files_of(urls: list[bytes]) -> list[str]:
    """One path for each file that the URLs point into."""
    paths = {url.decode().partition("?")[0] for url in urls}
    return list({os.stat(path).st_ino: path for path in sorted(paths)}.values())


def forget_cache(paths: list[str]) -> None:
    """Drop the files, which are on disk, from the page cache."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def write_back(paths: list[str]) -> None:
    """Wait until the files are on the disk."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def fill_cache(paths: list[str]) -> None:
    """Read the files, so that all of them lies in the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def measure_size(
    classes: dict[str, type], size: int, batches: int, directory: str
) -> dict[str, Any]:
    """Return {operation: {name: [MB/s, ...]}} for one object size."""
    count = max(1, BATCH_BYTES // size)
    megabytes = count * size / 1e6
    rates: dict[str, dict[str, list[float]]] = {
        operation: {name: [] for name in (*classes, "disk")}
        for operation in ("spill", "spill to disk", "restore", "cold restore")
    }
    disk = Disk(directory)
    storages = {name: make_storage(name, classes[name], directory, size) for name in classes}
    refs = [Ref() for _ in range(count)]
    restored: dict[str, list[tuple[Ref, bytes]]] = {}
    for batch in range(batches):
        order = list(classes) if batch % 2 == 0 else list(classes)[::-1]
        for name in order:
            fresh = [Ref() for _ in range(count)] if batch else refs
            seconds, made = timed(storages[name].spill_objects, fresh, [OWNER] * count)
            rates["spill"][name].append(megabytes / seconds)
            rest_seconds, _ = timed(write_back, files_of(made))
            rates["spill to disk"][name].append(megabytes / (seconds + rest_seconds))
            if batch == 0:
                # A whole segment is restored in the order in which it lies on the disk.
                offset_of = {
                    url: int(url.partition(b"?offset=")[2].partition(b"&")[0]) for url in made
                }
                restored[name] = sorted(
                    zip(refs, made, strict=True), key=lambda pair: offset_of[pair[1]]
                )
        rates["spill to disk"]["disk"].append(disk.write())
    files = {name: files_of([url for _, url in pairs]) for name, pairs in restored.items()}
    for operation, prepare in (("cold restore", forget_cache), ("restore", fill_cache)):
        for number in range(5):
            for name in list(classes) if number % 2 == 0 else list(classes)[::-1]:
                prepare(files[name])
                seconds, _ = timed(restore_one_by_one, storages[name], restored[name])
                rates[operation][name].append(megabytes / seconds)
            if operation == "cold restore":
                rates[operation]["disk"].append(disk.read())
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
            time.sleep(SETTLE_S)
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
                        "disk_mb_s": round(statistics.median(by_name["disk"] or [0])) or None,
                    }
                )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.json:
        print(json.dumps({"ray": ray.__version__, "rows": rows}))
        return
    print(f"Ray {ray.__version__}; MB/s, medians, checksums included")
    print(
        f"{'object bytes':>14}  {'operation':<14}{'stock':>8}{'mantaray':>10}{'ratio':>8}{'disk':>8}"
    )
    for row in rows:
        print(
            f"{row['object_bytes']:>14,}  {row['operation']:<14}{row['stock_mb_s']:>8}"
            f"{row['mantaray_mb_s']:>10}{row['ratio']:>8}{row['disk_mb_s'] or '':>8}"
        )
    print(
        "bounds: spill to disk and cold restore, the disk; restore, memory and the checksum, which"
    )
    print(
        "stock Ray does not have; spill, where stock Ray's ends in the page cache, the disk as well"
    )


if __name__ == "__main__":
    main()
