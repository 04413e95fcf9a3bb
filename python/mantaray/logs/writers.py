"""Tells whether a process may still write to an open file.

The kernel knows: it grants a read lease only on a file that nobody has open for writing. The lease is given
back at once. The question can be asked for files of this user, or by root, on a local file system.
"""

from __future__ import annotations

import fcntl
import signal


def may_be_written(fd: int) -> bool:
    """Return whether a process has the file open for writing; True if the kernel does not tell.

    Args:
        fd: a descriptor that is open for reading only.
    """
    try:
        # Another process may open the file for writing while the lease is held. The default signal
        # for that would end this process. The chosen signal is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
