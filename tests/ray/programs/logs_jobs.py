"""Jobs whose logs are hard to read: what their messages say, and how soon after their end."""

import json
import sys
import time

import psutil
import ray
from ray.job_submission import JobSubmissionClient

root, megabytes = sys.argv[1], int(sys.argv[2])
context = ray.init(
    address="local", num_cpus=1, _temp_dir=f"{root}/t", include_dashboard=True, dashboard_port=0
)
client = JobSubmissionClient(f"http://{context.dashboard_url}")
JOBS = {
    "endless": "w = sys.stdout.write\nfor _ in range(MB): w('x' * 999_999 + 'y')",
    "bars": "w = sys.stdout.write\nw('start\\\\n')\nfor i in range(20_000): w(f'\\\\r{i} of 20000')",
    "silent": "",
}


def agent_memory_mb():
    """The most that an agent or a job supervisor of this cluster holds."""
    names = ("DashboardAgent", "dashboard/agent.py", "JobSupervisor")
    held = [0.0]
    for process in psutil.Process().children(recursive=True):
        try:
            if any(name in " ".join(process.cmdline()) for name in names):
                held.append(process.memory_info().rss / 1e6)
        except psutil.NoSuchProcess:
            continue
    return max(held)


def submit(entrypoint):
    """Submit a job as soon as the node's agent is there to take it."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def run(code):
    """Submit a job that prints and fails; return what is known of it in the end."""
    ended = f"{root}/ended"
    tail = f"\nsys.stdout.flush()\nopen('{ended}', 'w').write(str(time.time()))\nsys.exit(3)"
    script = "import sys, time\n" + code.replace("MB", str(megabytes)) + tail
    path = f"{root}/job.py"
    with open(path, "w") as file:
        file.write(script.replace("\\\\", "\\"))
    job = submit(f"{sys.executable} {path}")
    most_mb, deadline = 0.0, time.monotonic() + 120
    while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        most_mb = max(most_mb, agent_memory_mb())
        time.sleep(0.05)
    known_at = time.time()
    with open(ended) as file:
        after_s = known_at - float(file.read())
    message = client.get_job_info(job).message
    return {
        "status": str(client.get_job_status(job)),
        "chars": len(message),
        "end": message[-60:],
        "after_s": round(after_s, 1),
        "memory_mb": round(most_mb),
    }


results = {name: run(code) for name, code in JOBS.items()}
ray.shutdown()
print(json.dumps(results), flush=True)
