"""What `mantaray.pth` imports when an interpreter starts.

It must cost next to nothing where Ray is never imported, and it must never break an interpreter,
whatever is missing or wrong. So it imports nothing but `sys` and only watches for the first import
of Ray; all the rest is loaded then.
"""

from __future__ import annotations

import sys


class RayFinder:
    """Stands first among the import finders, finds nothing, and notices that Ray is wanted."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Attach the overlay when `name` is Ray; leave finding it to the others in any case."""
        if name == "ray":
            _attach()
            # Only now: until here, another thread that wants Ray comes by and waits its turn.
            if self in sys.meta_path:
                sys.meta_path.remove(self)


def _attach() -> None:
    try:
        from mantaray.overlay.hooks import attach

        attach()
    except Exception as error:
        # Whatever it was, Ray is to be imported as if Mantaray were not there.
        if sys.stderr is not None:
            print(
                f"mantaray: the overlay could not be attached ({error}); Ray runs as it came, "
                "install ray-mantaray again",
                file=sys.stderr,
            )


def start() -> None:
    """Attach the overlay now if Ray is imported already, else as soon as it is."""
    if "ray" in sys.modules:
        _attach()
    elif not any(isinstance(finder, RayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RayFinder())


start()
