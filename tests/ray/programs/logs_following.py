"""Follows logs of jobs while they are written, as `ray job logs --follow` does; prints what came.

Arguments: URL of the dashboard, the directory of the session's logs, parts ("renamed,wide,short"), and how
many short jobs.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from pathlib import Path

from ray.job_submission import JobSubmissionClient

URL, LOGS, PARTS, SHORT_JOBS = sys.argv[1:]
LINES = 60
WIDE_CHARS = 6_000_000
# Prints a line whenever the test lets it, so that a rotation falls where it is meant to.
STEPPING = """
import os, time
for number in range({lines}):
    while not os.path.exists({gate!r}) and number >= {lines} // 2:
        time.sleep(0.02)
    print("line", number, flush=True)
"""
WIDE = "print('x' * {chars}); print('\\r'.join(f'{{n}} of 50000' for n in range(50001)), end='')"


def submit(client: JobSubmissionClient, program: str) -> str:
    """Submit a Python program; return the job's id. A node's agent may take a while to come up."""
    deadline = time.monotonic() + 240
    while True:
        try:
            return client.submit_job(entrypoint=f"{sys.executable} -c {shlex.quote(program)}")
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


async def follow(client: JobSubmissionClient, job: str, pieces: list[str]) -> str:
    """Return all that is shown of a job's log until the job has ended."""
    async for text in client.tail_job_logs(job):
        pieces.append(text)
    return "".join(pieces)


async def renamed(client: JobSubmissionClient) -> list[str]:
    """Rename the log in the middle, as logrotate does; the job goes on with its descriptor."""
    gate = Path(LOGS, "gate")
    job = submit(client, STEPPING.format(lines=LINES, gate=str(gate)))
    log = Path(LOGS, f"job-driver-{job}.log")
    pieces: list[str] = []
    following = asyncio.ensure_future(follow(client, job, pieces))
    while f"line {LINES // 2 - 1}\n" not in "".join(pieces):
        await asyncio.sleep(0.05)
    log.rename(f"{log}.1")
    log.touch()
    # Long enough for a follower to see the new file before the job goes on: it looks once a second.
    await asyncio.sleep(3)
    gate.touch()
    return [line for line in (await following).splitlines() if line.startswith("line ")]


async def wide(client: JobSubmissionClient) -> dict[str, object]:
    """Print a line of 6 MB and then progress bars without a line end."""
    job = submit(client, WIDE.format(chars=WIDE_CHARS))
    text = await follow(client, job, [])
    return {"x": text.count("x" * 1000), "end": text[-14:], "bars": text.count("\r")}


async def short(client: JobSubmissionClient) -> int:
    """Return of how many short jobs, which end in the middle of a line, the last line was shown."""
    shown = 0
    for number in range(int(SHORT_JOBS)):
        job = submit(client, f"print('first'); print('the last of {number}', end='')")
        shown += (await follow(client, job, [])).endswith(f"\nthe last of {number}")
    return shown


async def main() -> None:
    """Run the parts and print what was seen."""
    client = JobSubmissionClient(URL)
    seen: dict[str, object] = {}
    for part in PARTS.split(","):
        seen[part] = await {"renamed": renamed, "wide": wide, "short": short}[part](client)
    print(json.dumps(seen))


asyncio.run(main())
