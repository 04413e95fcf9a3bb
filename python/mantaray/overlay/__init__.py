"""The overlay: checks the installed Ray, attaches patches to it, and can detach them.

`mantaray.pth` imports this package in every interpreter of the environment. So it loads nothing by
itself, and fetches each name below from its module at first use.
"""

from __future__ import annotations

# A plain name that type checkers know, because importing `typing` would cost more than everything
# else.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from mantaray.overlay.fingerprints import fingerprint as fingerprint
    from mantaray.overlay.hooks import attaches_early as attaches_early
    from mantaray.overlay.hooks import give_up as give_up
    from mantaray.overlay.hooks import install as install
    from mantaray.overlay.hooks import register as register
    from mantaray.overlay.hooks import rely_on_native as rely_on_native
    from mantaray.overlay.hooks import status as status
    from mantaray.overlay.hooks import uninstall as uninstall
    from mantaray.overlay.installation import Installation as Installation
    from mantaray.overlay.patch import Patch as Patch
    from mantaray.overlay.patch import PatchStatus as PatchStatus
    from mantaray.overlay.patch import State as State
    from mantaray.overlay.patch import Target as Target
    from mantaray.overlay.patch import targets_in as targets_in

_HOMES = {
    "Installation": "installation",
    "Patch": "patch",
    "PatchStatus": "patch",
    "State": "patch",
    "Target": "patch",
    "attaches_early": "hooks",
    "fingerprint": "fingerprints",
    "give_up": "hooks",
    "install": "hooks",
    "register": "hooks",
    "rely_on_native": "hooks",
    "status": "hooks",
    "targets_in": "patch",
    "uninstall": "hooks",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
