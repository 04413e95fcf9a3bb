"""The patch `logs`: the end of a job's log costs what is shown of it, whatever the log looks like.

Replaced are the two methods through which Ray reads the log of a job's driver: the last lines, which
become the message of a failed job, and the lines as they come, which `ray job logs --follow` and
`ray job submit` show. Stock Ray reads whole lines, however long they are, on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

from mantaray.overlay import Installation, Patch, Target, register

_CLIENT = "ray.dashboard.modules.job.job_log_storage_client"
# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_FILES = (
    "832c8bb5636061c5e961706e7fa2a9844414dacd57a7660f4884e7fadb3907f1",
    "3a4e7ab8041e5adf50e4f572b6986fb42452074a687210e1f61e77f8b996c235",
)


def _install(module: ModuleType, installation: Installation) -> None:
    from mantaray.logs.following import Follower, LineBatches
    from mantaray.logs.reading import tail
    from mantaray.settings import LOG_REWRITES

    cls = module.JobLogStorageClient

    def last_lines(path: str, lines: int, max_chars: int) -> str:
        try:
            return tail(path, lines, max_chars, rewrites=LOG_REWRITES.read())
        except FileNotFoundError:
            return ""  # the job ended before it wrote anything
        except (OSError, ValueError) as error:
            # It becomes part of the message of a failed job, which must not get lost for it.
            return f"(the log cannot be shown: {error})"

    async def get_last_n_log_lines(
        client: Any, job_id: str, num_log_lines: int = cls.NUM_LOG_LINES_ON_ERROR
    ) -> str:
        path = client.get_log_file_path(job_id)
        return await asyncio.to_thread(last_lines, path, num_log_lines, client.MAX_LOG_SIZE)

    async def tail_logs(client: Any, job_id: str) -> AsyncIterator[list[str] | None]:
        follower = Follower(client.get_log_file_path(job_id))
        batches = LineBatches(follower)
        try:
            while True:
                yield await asyncio.to_thread(batches.next)
        finally:
            follower.close()

    installation.replace(cls, "get_last_n_log_lines", get_last_n_log_lines)
    installation.replace(cls, "tail_logs", tail_logs)


LOGS_PATCH = Patch(
    name="logs",
    summary="the end of a job's log in bounded memory and time, off the event loop",
    ray_versions=">=2.48,<2.61",
    plain_since="2.54",
    enough_since=None,
    targets=(
        Target(_CLIENT, "JobLogStorageClient", ("a3dee6a7e80def40", "3423d4bcf76f1982"), _FILES),
    ),
    installers={_CLIENT: _install},
)

register(LOGS_PATCH)
