"""Jobs whose logs are hard to read: what their messages say, and how soon after their end.

Arguments: the dashboard's address, the raylet's process id, a directory, how many MB the longest log has.
"""

import json
import os
import sys
import time

import psutil
import ray
from ray.job_submission import JobSubmissionClient

url, raylet, root, megabytes = (
    sys.argv[1],
    psutil.Process(int(sys.argv[2])),
    sys.argv[3],
    sys.argv[4],
)
client = JobSubmissionClient(url)
# From 2.52 on, Ray writes the command into the log at about the time at which the job begins.
WAIT = """
if TELLS:
    while b"Running entrypoint" not in open("/proc/self/fd/1", "rb").read():
        time.sleep(0.05)
"""
TELLS = tuple(map(int, ray.__version__.split(".")[:2])) >= (2, 52)
JOBS = {
    "endless": "w = sys.stdout.write\nfor _ in range(MB): w('x' * 999_999 + 'y')",
    "bars": WAIT
    + "w = sys.stdout.write\nw('start\\n')\nfor i in range(20_000): w(f'\\r{i} of 20000')",
    "silent": "",
}


def most_memory_mb():
    """The most that the agent or a job supervisor of this cluster holds."""
    names = ("DashboardAgent", "dashboard/agent.py", "JobSupervisor")
    held = [0.0]
    for process in raylet.children(recursive=True):
        try:
            if any(name in " ".join(process.cmdline()) for name in names):
                held.append(process.memory_info().rss / 1e6)
        except psutil.NoSuchProcess:
            continue
    return max(held)


def submit(name):
    """Submit a job that prints, says when it has ended, and fails."""
    tail = f"\nsys.stdout.flush()\nopen('{root}/{name}.ended', 'w').write(str(time.time()))\nsys.exit(3)"
    path = f"{root}/{name}.py"
    with open(path, "w") as file:
        body = JOBS[name].replace("MB", megabytes).replace("TELLS", str(TELLS))
        file.write("import sys, time\n" + body + tail)
    return client.submit_job(entrypoint=f"{sys.executable} {path}")


def told(name):
    """What is known of a job that has just become terminal."""
    known_at = time.time()
    with open(f"{root}/{name}.ended") as file:
        after_s = known_at - float(file.read())
    info = client.get_job_info(jobs[name])
    return {
        "status": str(info.status),
        "chars": len(info.message),
        "end": info.message[-60:],
        "after_s": round(after_s, 1),
    }


jobs = {name: submit(name) for name in JOBS}
seen, most_mb, deadline = {}, 0.0, time.monotonic() + 300
while len(seen) < len(jobs) and time.monotonic() < deadline:
    most_mb = max(most_mb, most_memory_mb())
    for name, job in jobs.items():
        if name not in seen and client.get_job_status(job).is_terminal():
            seen[name] = told(name)
    time.sleep(0.05)
for name in JOBS:
    os.unlink(f"{root}/{name}.py")
print(json.dumps({"jobs": seen, "memory_mb": round(most_mb)}), flush=True)
