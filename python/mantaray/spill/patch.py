"""The patch `spill`: Ray's `filesystem` external storage becomes Mantaray's.

Four places are changed: where Ray sets its external storage up; where a node reads its spilling
configuration, which is prepared for the way to the IO workers (see `mantaray.spill.handover`); where a
node starts its raylet: its spilling configuration is checked then, which Ray does on the head only, and
left-over directories of dead raylets are removed; and where an IO worker tells the drivers of an error
(see `mantaray.spill.no_room`).
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

from packaging.version import Version

from mantaray.overlay import Installation, Patch, register, targets_of

_STORAGE = "ray._private.external_storage"
_NODE = "ray._private.node"
_UTILS = "ray._private.utils"
# The first Ray that has `max_spilling_file_size_bytes`.
_KNOWS_CAP = "2.55"

# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_FILES = {
    _STORAGE: (
        "c086681286394b3d2854e1f343d3ae50b505f3ee397dc8c6ee6981b7f288fb67",
        "73f5ca8f42034d654c8df1fa29e7f2348d3b21930c69af5999304e0a58b9eec5",
    ),
    _NODE: (
        "b2316c06aabb7f34ced456806414398195ebeccbf6f55618ab3925c1937c1e7b",
        "4e6cb679c0bd57069bc829c9f6223296113d7c79ab12b0c08d90759ba8f9f2ca",
    ),
    _UTILS: (
        "605fb0e9907d0ec338123e3e2594371534133c5dbe1838be6c5ee0a2aaff1879",
        "3e4841837e6e7794f411c52d25d4f2ba8a6a356fb0fc49a31e4ff79d797af5bd",
    ),
}
_FINGERPRINTS = {
    (_STORAGE, "setup_external_storage"): ("8cbe6ea113bf4f7c",),
    (_STORAGE, "ExternalStorage"): ("01b00ee9a2c7cea7", "01bc689b09666ea0"),
    (_NODE, "Node.start_raylet"): ("319e8ec1798a09dc", "633c5243aaf2e22b"),
    (_NODE, "Node._get_object_spilling_config"): ("338ec567fdd5dc91",),
    (_UTILS, "push_error_to_driver"): ("9950c72f6aa83eaf",),
}


def _install_storage(module: ModuleType, installation: Installation) -> None:
    original = module.setup_external_storage

    def setup_external_storage(config: Any, node_id: Any, session_name: Any) -> Any:
        if not config or config.get("type") != "filesystem":
            return original(config, node_id, session_name)
        from mantaray.spill.storage import make_storage_class

        storage = make_storage_class(module)(node_id, config)
        vars(module)["_external_storage"] = storage
        return storage

    installation.replace(module, "setup_external_storage", setup_external_storage)


def _install_node(module: ModuleType, installation: Installation) -> None:
    def start_raylet(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        from mantaray.spill.handover import handing_on

        directories = _spill_directories(node)
        with handing_on(directories):
            result = wrapped(*args, **kwargs)
        if directories:
            _remove_leftovers(directories)
        return result

    def get_object_spilling_config(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        from mantaray.spill.handover import prepare

        # Two names of one dictionary, unless it is empty.
        system_configs = [node._config, node._ray_params._system_config or {}]
        return prepare(wrapped(*args, **kwargs), system_configs, takes_cap=takes_cap)

    takes_cap = Version(module.ray.__version__) >= Version(_KNOWS_CAP)
    installation.wrap(module.Node, "start_raylet", start_raylet)
    installation.wrap(module.Node, "_get_object_spilling_config", get_object_spilling_config)


def _install_utils(module: ModuleType, installation: Installation) -> None:
    def push_error_to_driver(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        from mantaray.spill.no_room import for_drivers

        bound = signature.bind(*args, **kwargs)
        message = for_drivers(bound.arguments["message"])
        if message is None:
            return None
        bound.arguments["message"] = message
        return wrapped(*bound.args, **bound.kwargs)

    signature = inspect.signature(module.push_error_to_driver)
    installation.wrap(module, "push_error_to_driver", push_error_to_driver)


def _spill_directories(node: Any) -> list[str]:
    """Return the directories that a starting node will spill to, checked.

    Raises:
        SpillConfigError: the configuration cannot work.
    """
    from mantaray.spill.config import make_node_directory, read_config
    from mantaray.spill.handover import directories_of_node

    directories = directories_of_node(node._object_spilling_config, node._config)
    if directories:
        read_config({})
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
    plain_since=_KNOWS_CAP,
    enough_since=None,
    targets=targets_of(_FINGERPRINTS, _FILES),
    installers={_STORAGE: _install_storage, _NODE: _install_node, _UTILS: _install_utils},
)

register(SPILL_PATCH)
