"""A Ray for commands that run something: one that is there, or one of their own."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from knowledge.config import Settings, load_settings
from knowledge.memory.actor import NAMESPACE, stop_memory


@contextlib.contextmanager
def cluster(address: str | None = None, **options: Any) -> Iterator[None]:
    """Connect to a Ray for the `with` block.

    Args:
        address: of a running one; None starts one on this machine, which ends with the block.
        options: of `ray.init` for one that is started.
    """
    if address is not None:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    else:
        ray.init(
            address="local",
            namespace=NAMESPACE,
            log_to_driver=False,
            include_dashboard=False,
            **options,
        )
    try:
        yield
    finally:
        if address is None:
            stop_memory()
        ray.shutdown()


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings of a command line.

    Raises:
        ConfigError: one of them is wrong.
    """
    settings = load_settings(
        arguments.settings,
        directory=arguments.directory,
        host=getattr(arguments, "host", None),
        port=getattr(arguments, "port", None),
    )
    # The memory's actor has another working directory.
    return dataclasses.replace(settings, directory=str(Path(settings.directory).resolve()))
