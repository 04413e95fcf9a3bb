"""Which distributions own the package directory `mantaray/`, read from their RECORD files.

Another project on PyPI is called `mantaray` and installs a package of that name. pip writes both
into one directory without a warning, and the later one replaces files of the earlier.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

import mantaray
from mantaray.overlay.decide import Problem

DISTRIBUTION = "ray-mantaray"
# A custom wheel is a distribution of Ray that contains the package.
_CUSTOM_WHEEL = "ray"
_OWNED = "mantaray/__init__.py"


@dataclass(frozen=True)
class Owner:
    """A distribution that installed the package directory.

    Attributes:
        name: normalised ("ray-mantaray").
        version: as in its metadata.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def owners(package: Path | None = None) -> list[Owner]:
    """Return the distributions that say that they installed the package, sorted by name.

    Args:
        package: the `__init__.py` of the package; that of the running Mantaray by default.
    """
    target = (package or Path(mantaray.__file__)).resolve()
    found = set()
    for distribution in importlib.metadata.distributions():
        # A RECORD is searched as text, because parsing those of a whole environment takes seconds.
        if f"\n{_OWNED}," not in "\n" + (distribution.read_text("RECORD") or ""):
            continue
        if Path(str(distribution.locate_file(_OWNED))).resolve() == target:
            name = canonicalize_name(distribution.metadata["Name"])
            found.add(Owner(name, distribution.version))
    return sorted(found, key=str)


def ownership_problem() -> Problem | None:
    """Return what is wrong with the owners of the running Mantaray; None if nothing is."""
    found = owners()
    strangers = [owner for owner in found if owner.name not in (DISTRIBUTION, _CUSTOM_WHEEL)]
    directory = Path(mantaray.__file__).parent
    if strangers:
        return Problem(
            f"{strangers[0]}, which is another project, is installed into the same directory as "
            f"Mantaray ({directory}), and each replaces files of the other",
            f"pip uninstall {strangers[0].name}, then install {DISTRIBUTION} again with pip's "
            "--force-reinstall",
        )
    if len(found) > 1:
        both = " and ".join(str(owner) for owner in found)
        return Problem(
            f"{both} are both installed into {directory}, and removing one takes files from the "
            "other",
            f"pip uninstall {DISTRIBUTION}, then install the custom wheel again with pip's "
            "--force-reinstall",
        )
    return None
