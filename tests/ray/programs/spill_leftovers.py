"""A node dies with its spill directory on the disk; a new one starts with the same directory."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil

root = sys.argv[1]
if sys.argv[2:] == ["dies"]:
    import ray
    from spill_common import payload, start

    start(root)
    refs = [ray.put(payload(i, 5_000_000)) for i in range(40)]
    print("spilled", flush=True)
    time.sleep(600)

from spill_common import report, start, wait_until  # noqa: E402

from mantaray.spill import leftovers, owner  # noqa: E402

child = subprocess.Popen(
    [sys.executable, __file__, root, "dies"],
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
)
assert child.stdout is not None and child.stdout.readline().strip() == "spilled"
for process in [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        pass
child.wait()
spill = os.path.join(root, "spill")
(dead,) = leftovers.node_directories([spill])
wait_until(lambda: leftovers.judge(dead)[0])
judged = leftovers.judge(dead)

prefix = os.path.basename(dead)[:-56]
foreign, unknown = (os.path.join(spill, prefix + letter * 56) for letter in "ef")
for path in (foreign, unknown):
    os.mkdir(path)
with open(owner.record_path(dead)) as file:
    record = json.load(file)
with open(owner.record_path(foreign), "w") as file:
    json.dump({**record, "machine_id": "another", "host": "elsewhere"}, file)

import ray  # noqa: E402

start(root)
removed = wait_until(lambda: not os.path.exists(dead))
report(
    judged=judged[0],
    removed=removed,
    foreign_stays=os.path.isdir(foreign),
    unknown_stays=os.path.isdir(unknown),
)
ray.shutdown()
