"""Passes the spilling configuration of a starting node to its IO workers, where Ray does not.

Ray loses or misuses three settings on the way to an IO worker:

- Ray 2.60 passes only the first directory of a list. Mantaray puts the whole list into a variable of the
  raylet's environment, which its IO workers inherit.
- The raylet refuses to create objects while a file system that it knows of is over 95 % full: that of
  the first directory on 2.60, that of any directory on 2.48. So Mantaray gives the raylet one directory,
  the one with most room when the node starts, and puts the list where Ray passes it on unread.
- Ray 2.48 does not know `max_spilling_file_size_bytes`, and its GCS ends if the system configuration
  contains it. Mantaray moves the setting into the object spilling configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mantaray import settings
from mantaray.helpers import environment_with
from mantaray.spill.config import directories_of, parse_cap

DIRECTORIES_VARIABLE = "_MANTARAY_SPILL_DIRECTORIES"
CAP_KEY = str(settings.MAX_SPILLING_FILE_SIZE_BYTES.upstream)
# Keys of the object spilling configuration that Ray does not read.
_DIRECTORIES_KEY = "mantaray_directories"


def prepare(
    spilling_config: str, system_configs: Sequence[MutableMapping[str, Any]], *, takes_cap: bool
) -> str:
    """Return the object spilling configuration that a starting node is to use, JSON.

    Mantaray does not handle storage of another type than `filesystem`, so it leaves that object spilling
    configuration as it is. It still takes the cap out, because the GCS of an old Ray ends if it gets it.

    Args:
        spilling_config: the object spilling configuration that Ray made of the settings, JSON.
        system_configs: those that Ray would pass to its GCS. The cap is taken out of them if necessary.
        takes_cap: whether this Ray knows `max_spilling_file_size_bytes`.

    Raises:
        SpillConfigError: the configuration cannot work.
    """
    config = json.loads(spilling_config)
    caps = [] if takes_cap else [own.pop(CAP_KEY) for own in system_configs if CAP_KEY in own]
    if config.get("type") != "filesystem":
        return spilling_config
    if caps:
        config[CAP_KEY] = parse_cap(caps[0])
    directories = directories_of(config["params"])
    if len(directories) > 1:
        # The order is stable if directories have equal room, as on one disk.
        directories.sort(key=_room, reverse=True)
        config["params"]["directory_path"] = directories[:1]
        config[_DIRECTORIES_KEY] = directories
    return json.dumps(config)


def _room(directory: str) -> tuple[bool, int]:
    """Return whether a directory, or where it will be made, may be written, and the bytes free there."""
    try:
        info = os.statvfs(directory)
        return os.access(directory, os.W_OK | os.X_OK), info.f_bavail * info.f_frsize
    except FileNotFoundError:
        parent = os.path.dirname(os.path.abspath(directory))
        return _room(parent) if parent != directory else (False, 0)
    except OSError:
        return False, 0


def _device(directory: str) -> int:
    """Return the device that a directory lies on, 0 when it cannot be looked at."""
    try:
        return os.stat(directory).st_dev
    except OSError:
        return 0


def directories_in(config: Mapping[str, Any]) -> list[str]:
    """Return all directories of an object spilling configuration of type `filesystem`.

    Args:
        config: as `prepare` or Ray made it.

    Raises:
        SpillConfigError: the configuration cannot work.
    """
    directories = directories_of(config.get("params", {}))
    listed = list(config.get(_DIRECTORIES_KEY) or [])
    # Ray 2.60 replaces the head's directory by a node's own directory. The head's list does not apply then.
    return listed if listed[:1] == directories[:1] else directories


def directories_of_node(own_config: str, system_config: Mapping[str, Any]) -> list[str]:
    """Return the directories that a starting node spills to; none for other types of storage.

    Args:
        own_config: the node's own object spilling configuration, JSON.
        system_config: the cluster's. In it Ray has decided between this node's and the head's object
            spilling configuration. If this node has a list of its own, it may contain only the first entry.

    Raises:
        SpillConfigError: the configuration cannot work.
    """
    own = _filesystem_directories(own_config)
    decided = _filesystem_directories(system_config.get("object_spilling_config") or own_config)
    return own if decided and own[:1] == decided[:1] else decided


def _filesystem_directories(spilling_config: str) -> list[str]:
    config = json.loads(spilling_config or "{}")
    return directories_in(config) if config.get("type") == "filesystem" else []


def handing_on(directories: Sequence[str]) -> AbstractContextManager[None]:
    """Put the directories into this process's environment while the raylet is started.

    Args:
        directories: the node's spill directories, or none at all.
    """
    places = [(os.path.abspath(path), _device(path)) for path in directories]
    return environment_with({DIRECTORIES_VARIABLE: json.dumps(places) if places else None})


def handed_on(directories: Sequence[str]) -> list[tuple[str, int]] | None:
    """Return what the node passed on: each directory, and the device number of its file system.

    Args:
        directories: those that Ray passed to this process, the first of the node's list or all of them.

    Returns:
        None if this process is not an IO worker of a node with these directories.
    """
    text = os.environ.get(DIRECTORIES_VARIABLE)
    places = [(str(path), int(device)) for path, device in json.loads(text)] if text else []
    paths = [path for path, _ in places]
    given = [os.path.abspath(path) for path in directories]
    return places if given and given == paths[: len(given)] else None
