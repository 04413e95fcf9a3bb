"""Keeps a node's logs within their limits: `mantaray.logs.retain_main PID LOG_DIRECTORY`.

The limits are those of MANTARAY_LOG_RETENTION_BYTES and MANTARAY_LOG_RETENTION_AGE_S. The program ends when
the process PID, the node's raylet, has ended. Its output is a line for each file that it removes.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence

from mantaray.logs.retention import clean
from mantaray.logs.retention_settings import read_limits

PERIOD_S = 30.0


def main(arguments: Sequence[str]) -> None:
    """Look at the logs at intervals until the process has ended."""
    pid, directory = arguments
    limits = read_limits()
    try:
        process = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return
    ended = select.poll()
    ended.register(process, select.POLLIN)
    while True:
        for verdict in clean([directory], limits):
            if verdict.removed:
                print(f"removed {verdict.log.path}: {verdict.why}", flush=True)
        if ended.poll(PERIOD_S * 1_000):
            return


if __name__ == "__main__":
    main(sys.argv[1:])
