"""Gets the official wheel of a Ray for this interpreter, through pip and with pip's own cache."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from mantaray.helpers import python_command
from mantaray.overlay.owners import DISTRIBUTION
from mantaray.wheel.errors import WheelError

_DOWNLOAD_TIMEOUT_S = 1800.0


def download_official(version: str, directory: Path) -> Path:
    """Download the official wheel of a Ray release.

    The output of pip goes to standard error.

    Args:
        version: the release, "2.60.0".
        directory: where to; must be empty.

    Returns:
        The wheel.

    Raises:
        WheelError: pip is missing, or found or got no such wheel.
    """
    return _download("ray", version, f"official wheel of Ray {version}", "--from", directory)


def download_mantaray(version: str, directory: Path) -> Path:
    """Download the wheel of a Mantaray release; see `download_official`.

    Args:
        version: the release, "0.2.0".
        directory: where to; must be empty.

    Raises:
        WheelError: pip is missing, or found or got no such wheel.
    """
    what = f"wheel of {DISTRIBUTION} {version}"
    return _download(DISTRIBUTION, version, what, "--mantaray", directory)


def _download(project: str, version: str, what: str, option: str, directory: Path) -> Path:
    """Get one wheel with pip. `what` and `option` are used in error messages."""
    if importlib.util.find_spec("pip") is None:
        raise WheelError(
            f"pip, which gets the {what}, is not installed for this interpreter",
            f"pip install 'ray-mantaray[wheel]', or give the wheel with {option}",
        )
    # Three equals signs: an index that serves custom wheels too would satisfy two with one of them.
    command = python_command(
        *("pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--disable-pip-version-check", "--dest", str(directory), f"{project}==={version}"),
    )
    try:
        done = subprocess.run(command, stdout=sys.stderr, check=False, timeout=_DOWNLOAD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise WheelError(
            f"pip did not get the {what} within {_DOWNLOAD_TIMEOUT_S:.0f} s",
            f"download the wheel yourself and give it with {option}",
        ) from error
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        here = f"Python {sys.version_info.major}.{sys.version_info.minor} on {sys.platform}"
        raise WheelError(
            f"pip got no {what} for {here} (its own words are above)",
            f"check the version and the network, or give the wheel with {option}",
        )
    return wheels[0]
