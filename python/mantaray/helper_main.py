"""`python -I helper_main.py USER_SITE MODULE ARGUMENT...`: runs a module as a helper process.

`mantaray.helpers.python_command` makes this command. USER_SITE may be empty.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys


def _use_this_mantaray() -> None:
    """Import the Mantaray that this file belongs to, wherever it lies."""
    home = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        "mantaray", os.path.join(home, "__init__.py"), submodule_search_locations=[home]
    )
    assert spec is not None and spec.loader is not None, "a file in a directory has a loader"
    package = importlib.util.module_from_spec(spec)
    sys.modules["mantaray"] = package
    spec.loader.exec_module(package)
    # Packages that are installed beside it, such as click. They come last, so that none hides the standard
    # library.
    beside = os.path.dirname(home)
    if beside not in sys.path:
        sys.path.append(beside)


def main() -> None:
    """Run the module that the command line names."""
    user_site, module, *arguments = sys.argv[1:]
    if user_site and user_site not in sys.path:
        sys.path.append(user_site)
    _use_this_mantaray()
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
