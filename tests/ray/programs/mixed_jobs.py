"""A failing job on each node: prints the end of its message, and whether its whole log arrives.

Arguments: the dashboard's address, the addresses of the nodes.
"""

import json
import sys
import time

from ray.job_submission import JobSubmissionClient

LINE = "x" * 2_000_000 + "y"
PROGRAM = "import sys; sys.stdout.write('x' * 2_000_000 + 'y'); sys.stdout.flush(); sys.exit(3)"
client = JobSubmissionClient(sys.argv[1])


def submit(address):
    deadline = time.monotonic() + 240
    while True:
        try:
            return client.submit_job(
                entrypoint=f'{sys.executable} -c "{PROGRAM}"',
                entrypoint_resources={f"node:{address}": 0.01},
            )
        except RuntimeError as error:
            # The node's agent is not there yet to take it.
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


seen = {}
for address in sys.argv[2:]:
    job = submit(address)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.1)
    info = client.get_job_info(job)
    seen[address] = {
        "status": str(info.status),
        "end": info.message[-20:],
        "ran_on": info.driver_agent_http_address.split("//")[-1].split(":")[0],
        "whole": LINE in client.get_job_logs(job),
    }
print(json.dumps(seen), flush=True)
