"""Threads for reading logs, apart from those of the event loop's own pool.

The loop's pool has as few as six threads, and Ray's agent and head use it, too. A read of a slow disk must
not hold them up, and their work must not hold up a reader. No thread is started before the first read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Usually more threads than readers, because each reader asks for one piece at a time.
_MAX_THREADS = 64
_POOL = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="mantaray-logs")


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call a function that reads a piece of a log in a thread; return what it returns.

    Args:
        function: reads one piece.
        arguments: of the function.
    """
    return await asyncio.get_running_loop().run_in_executor(_POOL, function, *arguments)
