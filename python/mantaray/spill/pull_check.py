"""The raylet verifies a spilled object before it sends the object to another node.

The raylet reads such an object from its file by itself and knows no checksums. So a starting node
preloads a small library into its raylet, which looks at each spilled object before the raylet opens
it (src/mantaray/spill/posix_pull_check_preload.cc). The raylet gets an I/O error in place of a damaged
object, and the node's IO workers find a note about it (see `mantaray.spill.recovery`).

The library is part of the native module. It travels as a file in memory whose descriptor the raylet
inherits. A raylet that cannot load it runs without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

_NOTES_VARIABLE = "_MANTARAY_PULL_NOTES"
_PRELOAD_VARIABLE = "LD_PRELOAD"
_RAYLET = "raylet"


@contextlib.contextmanager
def preloaded(services: ModuleType, state_directory: str) -> Iterator[None]:
    """Give the raylet that is started meanwhile the library.

    Args:
        services: Ray's module that starts processes.
        state_directory: the node's, where the IO workers look for notes.
    """
    from mantaray._native import spill

    try:
        descriptor = spill.open_pull_check_library()
    except OSError as error:
        logger.warning("Other nodes pull spilled objects of this node without a check: %s.", error)
        yield
        return
    popen = services.ConsolePopen

    def start(command: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        if os.path.basename(os.fspath(command[0])) == _RAYLET:
            kwargs["pass_fds"] = (*kwargs.get("pass_fds", ()), descriptor)
            environment = dict(os.environ if kwargs.get("env") is None else kwargs["env"])
            own = f"/proc/self/fd/{descriptor}"
            others = environment.get(_PRELOAD_VARIABLE)
            environment[_PRELOAD_VARIABLE] = f"{own}:{others}" if others else own
            kwargs["env"] = environment | {_NOTES_VARIABLE: state_directory}
        return popen(command, *args, **kwargs)

    vars(services)["ConsolePopen"] = start
    try:
        yield
    finally:
        vars(services)["ConsolePopen"] = popen
        os.close(descriptor)
