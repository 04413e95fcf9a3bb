"""Where a custom wheel keeps things: its version, and the names it adds to upstream's."""

from __future__ import annotations

from packaging.version import Version

from mantaray.wheel.contents import PACKAGE, PTH

LOCAL_LABEL = "mantaray"
# Below the .dist-info directory: upstream's RECORD, untouched, by which everything can be checked.
UPSTREAM_RECORD = "mantaray/UPSTREAM_RECORD"
# Metadata files that say something else in a custom wheel than upstream.
REWRITTEN = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt")


def custom_version(ray_version: str, mantaray_version: str) -> str:
    """Return the version of a custom wheel, "2.60.0+mantaray.0.2.0".

    Args:
        ray_version: of the official Ray.
        mantaray_version: of the Mantaray in it.
    """
    label = mantaray_version.replace("+", ".")
    return str(Version(f"{ray_version}+{LOCAL_LABEL}.{label}"))


def split_version(version: Version) -> tuple[str, str] | None:
    """Return Ray's and Mantaray's version out of a custom wheel's, None for any other wheel's."""
    label, _, mantaray_version = (version.local or "").partition(".")
    if label != LOCAL_LABEL or not mantaray_version:
        return None
    return version.public, mantaray_version


def is_ours(name: str) -> bool:
    """Return whether a path outside the .dist-info directory is one that Mantaray adds."""
    return name == PTH or name.startswith(f"{PACKAGE}/")
