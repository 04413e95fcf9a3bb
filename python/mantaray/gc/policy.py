"""The knobs of the `gc` patch, read and checked where a node or a driver starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from mantaray import settings
from mantaray.gc.model import Policy
from mantaray.settings import read_or_default

_LOG = logging.getLogger(__name__)
VARIABLE = settings.START_PYTHON_GC_MANAGER_THREAD.name
# Ray 2.48 does not know this key, and its GCS ends if the system configuration contains it.
SYSTEM_CONFIG_KEY = str(settings.START_PYTHON_GC_MANAGER_THREAD.upstream)
# The value in the system configuration with which this process started a head of Ray 2.48.
_from_system_config: bool | None = None


def read_policy(environ: Mapping[str, str] | None = None) -> Policy:
    """Return what the settings ask for.

    Args:
        environ: where to look; the environment of this process by default.

    Raises:
        SettingError: one of them is not allowed.
    """
    return Policy(
        time_share=settings.GC_TIME_SHARE.read(environ),
        short_pause_s=settings.GC_SHORT_PAUSE_MS.read(environ) / 1_000,
        idle_s=settings.GC_IDLE_DELAY_MS.read(environ) / 1_000,
        rss_limit_bytes=settings.GC_RSS_LIMIT_BYTES.read(environ),
        collapses_pages=settings.GC_HUGE_PAGES.read(environ),
    )


def is_wanted() -> bool:
    """Return whether triggers go to a thread on Ray 2.48; a bad value counts as yes."""
    if not os.environ.get(VARIABLE, "").strip() and _from_system_config is not None:
        return _from_system_config
    return read_or_default(settings.START_PYTHON_GC_MANAGER_THREAD.read, _LOG)


def check_for_start() -> None:
    """Check all knobs where a node or a driver is started.

    Raises:
        StartError: one of them is not allowed; one sentence.
    """
    with settings.ending_the_start():
        read_policy()
        settings.START_PYTHON_GC_MANAGER_THREAD.read()


@contextmanager
def handing_on(config: MutableMapping[str, Any] | None) -> Iterator[None]:
    """Take Ray 2.48's unknown key out of a system configuration while a head is started with it.

    The key goes into this process's environment, which the processes of the node inherit, and is
    kept for a driver in this process. A value that the environment has already takes precedence.
    """
    global _from_system_config
    _from_system_config = None
    if not config or SYSTEM_CONFIG_KEY not in config:
        yield
        return
    value = str(config.pop(SYSTEM_CONFIG_KEY)).lower()
    if os.environ.get(VARIABLE, "").strip():
        yield
        return
    os.environ[VARIABLE] = value
    try:
        with settings.ending_the_start():
            _from_system_config = settings.START_PYTHON_GC_MANAGER_THREAD.read()
            yield
    finally:
        del os.environ[VARIABLE]
