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

_ADDRESS = "ray-address"


@contextlib.contextmanager
def cluster(address: str | None, directory: str, **options: Any) -> Iterator[None]:
    """Connect to a Ray for the `with` block.

    One that is started here is found by other commands through the memory's directory, because a
    memory has one process that writes it.

    Args:
        address: of a running Ray; None: the one that has this memory open, else one is started,
            which ends with the block.
        directory: of the memory.
        options: of `ray.init` for one that is started.
    """
    place = Path(directory) / _ADDRESS
    address = address or _running(place)
    if address is not None:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
        return
    ray.init(
        address="local",
        namespace=NAMESPACE,
        log_to_driver=False,
        include_dashboard=False,
        **options,
    )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(ray.get_runtime_context().gcs_address)
        yield
    finally:
        place.unlink(missing_ok=True)
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


def _running(place: Path) -> str | None:
    """Return the address in the file if a Ray answers there; one that was killed left its file."""
    if not place.exists():
        return None
    address = place.read_text().strip()
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    except ConnectionError:
        place.unlink(missing_ok=True)
        return None
    ray.shutdown()
    return address
