"""Reads and checks the configuration of spilling: Ray's object spilling config and Mantaray's settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mantaray import knobs, settings
from mantaray.errors import StartError

logger = logging.getLogger(__name__)

# A large segment costs no disk space where each object can be given back by itself. docs/spilling.md has
# the measurements behind both figures.
DEFAULT_SEGMENT_BYTES = 128 << 20
DEFAULT_FUSED_BYTES = 16 << 20

_KNOWN_KEYS = ("directory_path", "buffer_size")
# Problems of directories that this process has warned of.
_warned: set[str] = set()


class SpillConfigError(StartError):
    """A spilling configuration that cannot work, in one sentence."""


@dataclass(frozen=True)
class SpillConfig:
    """Everything the engine is started with. Sizes in bytes, delays in milliseconds."""

    max_segment_bytes: int
    max_fused_bytes: int
    reserve_bytes: int | None
    cache_mode: str
    read_ahead_bytes: int
    punch_delay_ms: int
    io_deadline_ms: int
    check_pulls: bool


def read_config(system_config: Mapping[str, object]) -> SpillConfig:
    """Return the settings in force.

    Args:
        system_config: Ray's system configuration of this cluster, for upstream's own knob.

    Raises:
        SpillConfigError: a setting has a value that is not allowed.
    """
    try:
        # A bound that the patch `knobs` chose does not count here. It is for the raylet's batches.
        cap = settings.MAX_SPILLING_FILE_SIZE_BYTES.read(knobs.as_set_by_users(os.environ))
        if cap is None:
            cap = parse_cap(system_config.get("max_spilling_file_size_bytes", -1))
        return SpillConfig(
            max_segment_bytes=cap if cap > 0 else DEFAULT_SEGMENT_BYTES,
            max_fused_bytes=cap if cap > 0 else DEFAULT_FUSED_BYTES,
            reserve_bytes=settings.SPILL_RESERVE_BYTES.read(),
            cache_mode=settings.SPILL_CACHE.read(),
            read_ahead_bytes=settings.SPILL_READAHEAD_BYTES.read(),
            punch_delay_ms=settings.SPILL_PUNCH_DELAY_MS.read(),
            io_deadline_ms=settings.SPILL_IO_DEADLINE_MS.read(),
            check_pulls=settings.SPILL_CHECK_PULLS.read(),
        )
    except settings.SettingError as error:
        raise SpillConfigError(str(error)) from error


def parse_cap(value: object) -> int:
    """Return the cap that Ray's system configuration names, in bytes.

    Args:
        value: what stands there.

    Raises:
        SpillConfigError: it is no whole number.
    """
    # A value from the environment may arrive as text, as the values of upstream's own knobs do.
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise SpillConfigError(
            f"max_spilling_file_size_bytes in Ray's system config is {value!r}; "
            "give a number of bytes."
        )
    return value


def directories_of(params: Mapping[str, object]) -> list[str]:
    """Return the spill directories of a `filesystem` configuration.

    Args:
        params: the "params" of Ray's object spilling configuration.

    Raises:
        SpillConfigError: an unknown key, a directory_path that is no path or list of paths, or a
            buffer_size that is no whole number.
    """
    for key in params:
        if key not in _KNOWN_KEYS:
            known = " and ".join(_KNOWN_KEYS)
            raise SpillConfigError(
                f"object spilling config has the unknown key {key!r}; 'filesystem' takes {known}."
            )
    buffer_size = params.get("buffer_size")
    if buffer_size is not None and not isinstance(buffer_size, int):
        raise SpillConfigError(
            f"object spilling buffer_size is {buffer_size!r}; give a number of bytes."
        )
    value = params.get("directory_path")
    paths: Sequence[object] = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise SpillConfigError(
            f"object spilling directory_path is {value!r}; give a directory or a list of them."
        )
    return [str(path) for path in paths]


def make_node_directory(directory: str, name: str) -> str:
    """Make and return the directory that one node spills to.

    Args:
        directory: a configured spill directory; made when it does not exist.
        name: what the node's own directory is called.

    Raises:
        SpillConfigError: it is not a directory, or may not be written.
    """
    path = os.path.join(directory, name)
    try:
        os.makedirs(path, exist_ok=True)
        usable = os.access(path, os.W_OK | os.X_OK)
    except (NotADirectoryError, FileExistsError):
        raise SpillConfigError(
            f"object spilling directory {directory} is not a directory; "
            "give Ray one that it can write to."
        ) from None
    except OSError as error:
        raise SpillConfigError(
            f"object spilling directory {directory} cannot be used ({error.strerror}); "
            "give Ray one that it can write to."
        ) from error
    if not usable:
        raise SpillConfigError(
            f"object spilling directory {directory} may not be written by this user; "
            "change its permissions or give Ray another."
        )
    return path


def is_usable(path: str, device: int) -> bool:
    """Return whether a node's directory can be written to at the moment.

    Args:
        path: the node's own directory. It may be missing; spilling makes it again.
        device: the device that it lay on when the node started, 0 for not known.
    """
    there = path if os.path.isdir(path) else os.path.dirname(path)
    try:
        on_its_disk = device in (0, os.stat(there).st_dev)
    except OSError:
        return False
    return on_its_disk and os.access(there, os.W_OK | os.X_OK)


def make_usable(places: Sequence[tuple[str, int]], name: str, *, at_least_one: bool) -> list[str]:
    """Make a node's directory in each place where that can be done now; warn of the others.

    Args:
        places: configured directories and the devices that they lay on when the node started, 0 for
            not known.
        name: what the node's own directory is called.
        at_least_one: whether it is an error when no directory can be used.

    Returns:
        The configured directories that can be used.

    Raises:
        SpillConfigError: none can.
    """
    usable, problems = [], []
    for directory, device in places:
        try:
            # After an unmount the same path is on another disk, usually the root's.
            if device != 0 and os.stat(directory).st_dev != device:
                raise SpillConfigError(
                    f"object spilling directory {directory} lies on another disk than at the start "
                    "of the node; mount the disk again."
                )
            make_node_directory(directory, name)
            usable.append(directory)
        except OSError as error:
            problems.append(f"object spilling directory {directory} is gone ({error.strerror}).")
        except SpillConfigError as error:
            problems.append(str(error))
    if at_least_one and not usable:
        raise SpillConfigError(" ".join(problems))
    for problem in problems:
        if problem not in _warned:
            _warned.add(problem)
            logger.warning("%s It is passed over until it can be used.", problem)
    return usable
