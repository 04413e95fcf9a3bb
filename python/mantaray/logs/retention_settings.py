"""The limits of log retention that the settings ask for."""

from __future__ import annotations

from collections.abc import Mapping

from mantaray.logs.retention import Limits
from mantaray.settings import LOG_RETENTION_AGE_S, LOG_RETENTION_BYTES


def read_limits(environ: Mapping[str, str] | None = None) -> Limits:
    """Return the limits in force.

    Args:
        environ: where to look; the environment of this process by default.

    Raises:
        SettingError: a setting has a value that is not allowed.
    """
    return Limits(LOG_RETENTION_BYTES.read(environ), LOG_RETENTION_AGE_S.read(environ))
