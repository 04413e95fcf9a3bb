"""What the spill programs share: starting Ray on this machine, and looking at the disk.

A program is given a directory of its own; spill directories and Ray's own files lie below it. It
prints one line of JSON in the end.
"""

import json
import os
import time

import numpy as np
import psutil
import ray


def start(root, directories=("spill",), store_mb=120, num_cpus=2, **system_config):
    """Start a local cluster of one node that spills into the given directories below root."""
    paths = [os.path.join(root, name) if not name.startswith("/") else name for name in directories]
    for path in paths:
        os.makedirs(path, exist_ok=True)
    # Most programs are about restores. Without this, the driver would read the objects by itself.
    os.environ.setdefault("MANTARAY_SPILL_GET_BYTES", "0")
    config = {"type": "filesystem", "params": {"directory_path": paths}}
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=store_mb * 1_000_000,
        include_dashboard=False,
        _temp_dir=os.path.join(root, "t"),
        _system_config={"object_spilling_config": json.dumps(config), **system_config},
    )
    return paths


def payload(number, size_bytes):
    """Bytes that tell which object they belong to, and where in it they lie."""
    return np.random.default_rng(number).integers(0, 256, size_bytes, dtype=np.uint8)


def is_intact(number, array, size_bytes):
    return array.nbytes == size_bytes and bool((array == payload(number, size_bytes)).all())


def files(paths):
    """{inode: (bytes on disk, st_size, links)} of all files of spilled data below the paths."""
    found = {}
    for name in names_below(paths):
        try:
            info = os.lstat(name)
        except FileNotFoundError:
            continue
        found[info.st_ino] = (info.st_blocks * 512, info.st_size, info.st_nlink)
    return found


def disk_bytes(paths):
    return sum(size for size, _, _ in files(paths).values())


def names_below(paths):
    """The files of spilled data below the paths."""
    return [
        os.path.join(parent, name)
        for path in paths
        for parent, _, names in os.walk(path)
        for name in names
        if os.path.basename(parent) != ".mantaray-owners"
    ]


def wait_until(condition, timeout_s=150.0, period_s=0.2):
    """Wait for the condition; return whether it came true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(period_s)
    return bool(condition())


def io_workers():
    """The IO workers of this cluster, by their command line or title."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if ("SpillWorker" in line or "RestoreWorker" in line) and "ray::" in line:
            found.append(process)
    own_session = psutil.Process().pid
    return [p for p in found if own_session in {parent.pid for parent in _parents(p)}]


def _parents(process):
    try:
        return process.parents()
    except psutil.NoSuchProcess:
        return []


def report(**values):
    print(json.dumps(values), flush=True)
