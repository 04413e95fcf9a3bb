"""A Serve application and a submitted job on a cluster behind relays.

Arguments: the dashboard's address. Prints what both answered.
"""

from __future__ import annotations

import json
import os
import sys
import time

import ray
from ray import serve
from ray.job_submission import JobSubmissionClient


@serve.deployment(num_replicas=3, ray_actor_options={"num_cpus": 0.1})
class Echo:
    """Says what it is told, and where."""

    def __call__(self, word: str) -> list[str]:
        """Return the word and the node."""
        return [word, ray.get_runtime_context().get_node_id()]


def main() -> None:
    """Serve, submit, and wait for the job."""
    ray.init(log_to_driver=False)
    handle = serve.run(Echo.bind(), route_prefix=None)
    answers = [handle.remote(str(number)).result(timeout_s=60) for number in range(30)]
    client = JobSubmissionClient(sys.argv[1])
    entry = f"{sys.executable} -c \"import ray; ray.init(); print('says', len(ray.nodes()))\""
    job = client.submit_job(entrypoint=entry)
    deadline = time.monotonic() + 90
    while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.3)
    told = {
        "right": all(word == str(number) for number, (word, _) in enumerate(answers)),
        "job": client.get_job_status(job).value,
        "said": "says" in client.get_job_logs(job),
    }
    serve.shutdown()
    print(json.dumps(told), flush=True)
    ray.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
