"""The module that `mantaray.pth` imports when an interpreter starts.

It must cost next to nothing if Ray is never imported, and it must never break an interpreter,
whatever is missing or wrong. So it imports only `sys` and waits for the first import of Ray.
Everything else is loaded then.
"""

from __future__ import annotations

import sys


class RayFinder:
    """The first import finder, which finds nothing and notices when Ray is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Attach the overlay if `name` is Ray. The other finders find the module."""
        if name == "ray":
            _attach()
            # Set only now. Another thread that imports Ray meanwhile must come here and wait.
            if self in sys.meta_path:
                sys.meta_path.remove(self)


def _attach() -> None:
    try:
        from mantaray.overlay.hooks import attach

        attach()
    except Exception as error:
        # Whatever the error was, Ray must be imported as if Mantaray were not there.
        if sys.stderr is not None:
            print(
                f"mantaray: the overlay could not be attached ({error}); Ray runs as it came, "
                "install ray-mantaray again",
                file=sys.stderr,
            )


def start() -> None:
    """Attach the overlay now if Ray is imported already, or as soon as it is imported."""
    if "ray" in sys.modules:
        _attach()
    elif not any(isinstance(finder, RayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RayFinder())


start()
