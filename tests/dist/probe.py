"""What an extension module has to do wherever it is loaded; needs Python and nothing else.

Run as: python probe.py [MODULE.so]. Without a file, the installed Mantaray is taken. Spills and restores
with the engine, from several threads, meets damage and a full disk as exceptions, and explores
worlds of the reference-counting protocol. Prints one line of JSON.
"""

import importlib.machinery
import importlib.util
import json
import os
import platform
import sys
import tempfile
import threading

HEADER_BYTES = 24 + len(b"owner") + len(b"metadata")


def load(path):
    """Load the module from a file as Python's import system does."""
    loader = importlib.machinery.ExtensionFileLoader("_native", path)
    spec = importlib.util.spec_from_file_location("_native", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def engine_of(spill, directory, reserve_bytes=0):
    """Return an engine on a new node directory."""
    node = os.path.join(directory, spill.NODE_DIRECTORY_PREFIX + "0" * 56)
    os.makedirs(node, exist_ok=True)
    return spill.Engine(
        node_directories=[node],
        max_segment_bytes=64 << 20,
        max_fused_bytes=16 << 20,
        reserve_bytes=reserve_bytes,
        cache_mode="drop",
        read_ahead_bytes=0,
        punch_delay_ms=0,
    )


def objects_of(count, size_bytes):
    """Return objects of random bytes."""
    return [(os.urandom(28), b"owner", b"metadata", os.urandom(size_bytes)) for _ in range(count)]


def restore(engine, url, object_id):
    """Return the payload of a spilled object."""
    reader = engine.open(url.decode(), object_id)
    buffer = bytearray(reader.payload_bytes)
    assert reader.readinto(buffer) == len(buffer)
    return bytes(buffer)


def raised(expected, call, *arguments):
    """Check that a call raises an exception of this type: it crosses C++ and comes back."""
    try:
        call(*arguments)
    except expected:
        return
    raise AssertionError(f"{expected.__name__} was not raised")


def spills_and_restores(spill, directory):
    """Spill from several threads and read everything back."""
    failures = []

    def work(number):
        try:
            engine = engine_of(spill, os.path.join(directory, str(number)))
            for size_bytes in (0, 1, 4096, 100000, 3000000):
                objects = objects_of(3, size_bytes)
                urls = engine.spill(objects)
                for url, item in zip(urls, objects, strict=True):
                    assert restore(engine, url, item[0]) == item[3]
                engine.delete([url.decode() for url in urls])
            engine.close()
        except BaseException as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def meets_damage_and_full_disks(spill, directory):
    """Flip a byte of a spilled object; spill where there is no room."""
    engine = engine_of(spill, os.path.join(directory, "damaged"))
    item = objects_of(1, 100000)[0]
    url = engine.spill([item])[0]
    path, _, query = url.decode().partition("?offset=")
    with open(path, "r+b") as file:
        file.seek(int(query.partition("&")[0]) + HEADER_BYTES + 50000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    raised(spill.SpillDamageError, restore, engine, url, item[0])
    full = engine_of(spill, os.path.join(directory, "full"), reserve_bytes=1 << 60)
    raised(spill.SpillNoSpaceError, full.spill, objects_of(1, 1000))
    raised(TypeError, full.spill, [("text", b"", b"", b"")])


def explores(sim):
    """Explore worlds on two threads, and find a planted fault."""
    world = {"processes": 4, "steps": 30}
    sound = sim.explore(first_seed=1000000, seeds=200, threads=2, **world)
    assert sound["failing_seed"] is None, sound
    planted = sim.explore(first_seed=0, seeds=5000, bug="second-notice-fatal", **world)
    assert planted["violation"] == "an operation failed", planted


def main():
    """Probe one module."""
    if len(sys.argv) > 1:
        native = load(sys.argv[1])
    else:
        import mantaray._native as native
    # tmpfs has no holes to punch on some kernels; the current directory is a disk.
    with tempfile.TemporaryDirectory(dir=os.environ.get("PROBE_DIR")) as directory:
        spills_and_restores(native.spill, directory)
        meets_damage_and_full_disks(native.spill, directory)
    explores(native.sim)
    libc = os.confstr("CS_GNU_LIBC_VERSION")
    said = {"python": platform.python_version(), "machine": platform.machine(), "libc": libc}
    print(json.dumps(said))


main()
