"""What processes that start others share: a safe command line, and variables for the time of a start.

`python -m MODULE` puts the working directory first on `sys.path`. A file that somebody else left there,
such as `/tmp/glob.py`, would then run with the rights of this process. Every helper process is therefore
started with the command that `python_command` returns. tests/support/tidy.py refuses any other way.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Run as a file in isolated mode, so that Python searches neither its directory nor the working directory.
_MAIN = Path(__file__).resolve().with_name("helper_main.py")


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as a program.

    The program finds the standard library first, then the packages of this environment, then the
    user's own site directory if this process uses that. It ignores PYTHONPATH and the working directory.
    It uses the very Mantaray that this process uses.

    Args:
        module: what `python -m` would be given: "mantaray.spill.clean_main", "pip".
        arguments: for the program.
    """
    user_site = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    return [sys.executable, "-I", os.fspath(_MAIN), user_site, module, *arguments]


@contextmanager
def environment_with(values: Mapping[str, str | None]) -> Iterator[None]:
    """Change variables of this process while it starts another, which inherits them.

    Args:
        values: by the names of the variables; None removes a variable.
    """
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
