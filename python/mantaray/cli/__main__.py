"""`python -m mantaray.cli` is the `mantaray` command, for where the script is not on the path."""

from __future__ import annotations

from mantaray.cli.main import main

if __name__ == "__main__":
    main(prog_name="mantaray")
