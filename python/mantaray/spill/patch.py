"""The patch `spill`: Ray's `filesystem` external storage becomes Mantaray's.

Two places are changed: where Ray sets its external storage up, and where a node starts its raylet
(left-over directories of dead raylets are removed then, and a node other than the head has its
spilling configuration checked, as Ray does on the head).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

from mantaray.overlay import Installation, Patch, Target, register

_STORAGE = "ray._private.external_storage"
_NODE = "ray._private.node"

# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_STORAGE_FILES = (
    "c086681286394b3d2854e1f343d3ae50b505f3ee397dc8c6ee6981b7f288fb67",
    "73f5ca8f42034d654c8df1fa29e7f2348d3b21930c69af5999304e0a58b9eec5",
)
_NODE_FILES = (
    "b2316c06aabb7f34ced456806414398195ebeccbf6f55618ab3925c1937c1e7b",
    "4e6cb679c0bd57069bc829c9f6223296113d7c79ab12b0c08d90759ba8f9f2ca",
)


def _install_storage(module: ModuleType, installation: Installation) -> None:
    original = module.setup_external_storage

    def setup_external_storage(config: Any, node_id: Any, session_name: Any) -> Any:
        if not config or config.get("type") != "filesystem":
            return original(config, node_id, session_name)
        from mantaray.spill.storage import make_storage_class

        storage = make_storage_class(module)(node_id, **config["params"])
        vars(module)["_external_storage"] = storage
        return storage

    installation.replace(module, "setup_external_storage", setup_external_storage)


def _install_node(module: ModuleType, installation: Installation) -> None:
    def start_raylet(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        directories = _spill_directories(node)
        result = wrapped(*args, **kwargs)
        if directories:
            _remove_leftovers(directories)
        return result

    installation.wrap(module.Node, "start_raylet", start_raylet)


def _spill_directories(node: Any) -> list[str]:
    """Return the directories that a starting node will spill to, checked.

    Raises:
        SpillConfigError: the configuration cannot work.
    """
    config = json.loads(getattr(node, "_object_spilling_config", None) or "{}")
    if config.get("type") != "filesystem":
        return []
    from mantaray.spill.config import directories_of, make_node_directory, read_config

    read_config({})
    directories = directories_of(config.get("params", {}))
    for directory in directories:
        probe = make_node_directory(directory, f".mantaray-probe-{os.getpid()}")
        os.rmdir(probe)
    return directories


def _remove_leftovers(directories: list[str]) -> None:
    """Remove left-over directories in a process of its own: it may take long."""
    command = [sys.executable, "-m", "mantaray.spill.clean_main", *directories]
    subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


SPILL_PATCH = Patch(
    name="spill",
    summary="disk used by spilled objects follows the live ones; checksums; full-disk behaviour",
    ray_versions=">=2.48,<2.61",
    plain_since="2.55",
    enough_since=None,
    targets=(
        Target(_STORAGE, "setup_external_storage", ("8cbe6ea113bf4f7c",), _STORAGE_FILES),
        Target(
            _STORAGE, "ExternalStorage", ("01b00ee9a2c7cea7", "01bc689b09666ea0"), _STORAGE_FILES
        ),
        Target(_NODE, "Node.start_raylet", ("319e8ec1798a09dc", "633c5243aaf2e22b"), _NODE_FILES),
    ),
    installers={_STORAGE: _install_storage, _NODE: _install_node},
)

register(SPILL_PATCH)
