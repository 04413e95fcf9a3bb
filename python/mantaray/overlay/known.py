"""The known Rays: for each release, the patches that were reviewed against it and the files they rely on.

Each file `rays/<release>.json` describes one official release. The listing of that directory is the
only list of known releases. A process reads one file, that of the Ray at hand. `tools/adopt_ray`
writes the files, and only for patches that a person has accepted for the release, so a patch that is
not in a file does not fit that release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

DIRECTORY = Path(__file__).parent / "rays"


class KnownRay(NamedTuple):
    """One known release.

    Attributes:
        release: its version, such as "2.60.0".
        files: for each module of Ray that a patch relies on, the SHA-256 of its source file.
        patches: for each patch that fits this release, the reviewed fingerprint of each of its
            targets, keyed "module:attribute".
    """

    release: str
    files: Mapping[str, str]
    patches: Mapping[str, Mapping[str, str]]

    def reviewed(self, patch: str) -> Mapping[str, str]:
        """Return the reviewed fingerprints of a patch; empty if it was not accepted for this Ray."""
        return self.patches.get(patch, {})


def releases(directory: Path = DIRECTORY) -> tuple[str, ...]:
    """Return every known release, the oldest first.

    Args:
        directory: where the descriptions are.
    """
    return tuple(sorted((path.stem for path in directory.glob("*.json")), key=Version))


def read(version: str, directory: Path = DIRECTORY) -> KnownRay | None:
    """Return what is known about the Ray of a version; None for a Ray that is not known.

    Args:
        version: as Ray states it. A local part ("+mantaray.0.1.0") does not count.
        directory: where the descriptions are.

    Raises:
        ValueError: the description of this release is damaged.
        OSError: it cannot be read.
    """
    release = release_of(version)
    path = directory / f"{release}.json"
    if release is None or not path.is_file():
        return None
    return parse(release, path.read_bytes())


def nearest(version: str, directory: Path = DIRECTORY) -> KnownRay | None:
    """Return the newest known release before a version; None if the version is older than all.

    Args:
        version: as Ray states it.
        directory: where the descriptions are.

    Raises:
        ValueError: the description of that release is damaged.
        OSError: it cannot be read.
    """
    try:
        limit = Version(version)
    except InvalidVersion:
        return None
    older = [release for release in releases(directory) if Version(release) < limit]
    return read(older[-1], directory) if older else None


def parse(release: str, text: bytes) -> KnownRay:
    """Return the known Ray that a description holds.

    Args:
        release: the release that it must be of.
        text: the content of the file.

    Raises:
        ValueError: the description is damaged or of another release.
    """
    try:
        told = json.loads(text)
        known = KnownRay(told["ray"], told["files"], told["patches"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the description of Ray {release} is damaged ({error!r})") from error
    if known.release != release:
        raise ValueError(f"the description of Ray {release} is that of {known.release}")
    return known


def write(known: KnownRay, directory: Path = DIRECTORY) -> Path:
    """Write the description of a release, replace an earlier one, and return its path.

    Args:
        known: what to write.
        directory: where the descriptions are.

    Raises:
        OSError: it cannot be written.
    """
    told = {"ray": known.release, "files": dict(known.files), "patches": dict(known.patches)}
    path = directory / f"{known.release}.json"
    path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    return path


def why_unknown(version: str) -> str | None:
    """Return why Mantaray knows nothing about a Ray of this version; None when it does know it."""
    try:
        Version(version)
    except InvalidVersion:
        return f"this Ray states no version that can be read ({version})"
    release = release_of(version)
    if release is not None and (DIRECTORY / f"{release}.json").is_file():
        return None
    return f"Ray {version} is not one that Mantaray knows ({span()})"


def span() -> str:
    """Return the known releases in words, such as "2.48.0 to 2.60.0"."""
    every = releases()
    return f"{every[0]} to {every[-1]}" if every else "none: its table of Rays is missing"


def release_of(version: str) -> str | None:
    """Return the final release that a version names, such as "2.60.0"; None for any other version.

    Args:
        version: as Ray states it. A local part ("+mantaray.0.1.0") does not count.
    """
    try:
        parsed = Version(version)
    except InvalidVersion:
        return None
    if parsed.is_prerelease or parsed.is_postrelease or parsed.epoch or len(parsed.release) > 3:
        return None
    return f"{parsed.major}.{parsed.minor}.{parsed.micro}"
