"""Mantaray's storage class beside an installed Ray, without a cluster: the store is a dictionary.

Prints what happens when reads fail for a while and for long, and when the storage is closed.
"""

import json
import os
import sys
import threading
import time

import ray
from mantaray.spill.recovery import Recovery
from ray._private import external_storage

root = sys.argv[1]
SIZE = 200_000
NODE = "ab" * 28


class Ref:
    def __init__(self, number):
        self._id = bytes([number]) * 28

    def binary(self):
        return self._id

    def hex(self):
        return self._id.hex()


storage = external_storage.setup_external_storage(
    {"type": "filesystem", "params": {"directory_path": [root]}}, NODE, "session"
)
payloads = {number: os.urandom(SIZE) for number in range(4)}
store = {}
lost = []


def put(metadata, size_bytes, file, ref, owner):
    buffer = bytearray(size_bytes)
    file.readinto(buffer)
    store[ref.binary()] = bytes(buffer)


class Flaky:
    """The engine, whose opens or reads fail while `failing` says so."""

    failing = None
    failures = 0

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def _maybe_fail(self, at):
        if Flaky.failing == at and Flaky.failures > 0:
            Flaky.failures -= 1
            raise OSError(f"{at}: Stale file handle")

    def open(self, url, object_id):
        self._maybe_fail("open")
        return FlakyReader(self, self.engine.open(url, object_id))


class FlakyReader:
    def __init__(self, flaky, reader):
        self.flaky, self.reader = flaky, reader

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def readinto(self, buffer):
        self.flaky._maybe_fail("read")
        return self.reader.readinto(buffer)


refs = [Ref(number) for number in payloads]
storage._get_objects_from_store = lambda wanted: [
    (payloads[ref.binary()[0]], b"metadata") for ref in wanted
]
storage._put_object_to_store = put
Recovery.lost = lambda self, ref, url, error: lost.append(str(error))
urls = storage.spill_objects(refs, [b"owner"] * len(refs))
storage._engine = Flaky(storage._engine)
came_back = {}
for at in ("open", "read"):
    Flaky.failing, Flaky.failures = at, 3
    store.clear()
    size_bytes = storage.restore_spilled_objects(refs[:1], urls[:1])
    came_back[at] = size_bytes == SIZE and store[refs[0].binary()] == payloads[0]
lost_meanwhile = len(lost)
# The call's share of the deadline is over at once, and the deadline itself at the next call.
errors = []
storage._io_deadline_s = 0.5
Flaky.failing, Flaky.failures = "open", 10**9
for _ in range(2):
    try:
        storage.restore_spilled_objects(refs[1:2], urls[1:2])
    except OSError as error:
        errors.append(str(error))
Flaky.failures = 0
removed = urls[2].decode().partition("?")[0]
os.unlink(removed)
try:
    storage.restore_spilled_objects(refs[2:3], urls[2:3])
except FileNotFoundError as error:
    missing = str(error)
threads = sorted(thread.name for thread in threading.enumerate() if "spill" in thread.name)
began = time.monotonic()
storage.delete_spilled_objects(urls)
storage._close()
told = {
    "ray": ray.__version__,
    "came_back": came_back,
    "lost_meanwhile": lost_meanwhile,
    "errors": errors,
    "lost": lost,
    "missing_names_its_path": removed in missing,
    "threads": threads,
    "threads_after_close": sorted(t.name for t in threading.enumerate() if "spill" in t.name),
    "close_s": time.monotonic() - began,
    "left": os.listdir(storage._directory_paths[0]),
    "names": [
        os.path.basename(storage._directory_paths[0]),
        storage._current_directory_index,
        storage._buffer_size,
    ],
}
print(json.dumps(told))
