"""The patches `spill`, `knobs` and `direct`.

`spill`: Ray's `filesystem` external storage becomes Mantaray's.

It changes four functions of Ray:

- The one that sets up the external storage.
- The one with which a node reads its spilling configuration. Mantaray prepares that configuration for the
  IO workers (see `mantaray.spill.handover`).
- The one with which a node starts its raylet. Mantaray checks the spilling configuration there (Ray checks
  it only on the head), preloads the library that verifies pulled objects (see `mantaray.spill.pull_check`),
  and removes left-over directories of dead raylets.
- The one with which an IO worker reports an error to the drivers (see `mantaray.spill.no_room`).

`knobs`: a node that starts its raylet gives it values for Ray's spilling knobs that suit the machine (see
`mantaray.knobs`).

`direct`: `ray.get` reads objects that were spilled on its own node from their files (see
`mantaray.spill.direct`).
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import subprocess
from types import ModuleType
from typing import Any

from packaging.version import Version

from mantaray.helpers import python_command
from mantaray.overlay import Installation, Patch, Target, register, rely_on_native, targets_in

logger = logging.getLogger(__name__)

_STORAGE = "ray._private.external_storage"
_NODE = "ray._private.node"
_UTILS = "ray._private.utils"
_WORKER = "ray._private.worker"
_SERIALIZATION = "ray._private.serialization"
# The first Ray that has `max_spilling_file_size_bytes`.
_KNOWS_CAP = "2.54"


def _install_storage(module: ModuleType, installation: Installation) -> None:
    original = module.setup_external_storage

    def setup_external_storage(config: Any, node_id: Any, session_name: Any) -> Any:
        if not config or config.get("type") != "filesystem" or not rely_on_native("spill"):
            return original(config, node_id, session_name)
        from mantaray.spill.storage import make_storage_class

        storage = make_storage_class(module)(node_id, config)
        vars(module)["_external_storage"] = storage
        return storage

    installation.replace(module, "setup_external_storage", setup_external_storage)


def _install_node(module: ModuleType, installation: Installation) -> None:
    def start_raylet(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        # Without the native module the IO workers use Ray's own storage, which needs Ray's configuration.
        if not rely_on_native("spill"):
            return wrapped(*args, **kwargs)
        from mantaray import settings
        from mantaray.spill.handover import handing_on
        from mantaray.spill.node_lock import inherited_by_children
        from mantaray.spill.pull_check import preloaded
        from mantaray.spill.state import state_directory_of

        directories = _spill_directories(node)
        name = f"{module.ray_constants.DEFAULT_OBJECT_PREFIX}_{node.node_id}"
        own = [os.path.join(path, name) for path in directories]
        services = module.ray._private.services
        state_directory = state_directory_of(node, node.node_id)
        with contextlib.ExitStack() as stack:
            stack.enter_context(handing_on(directories))
            if directories and settings.SPILL_CHECK_PULLS.read():
                stack.enter_context(preloaded(services, state_directory))
            stack.enter_context(inherited_by_children(services, own))
            result = wrapped(*args, **kwargs)
        if directories:
            _remove_leftovers(directories)
        return result

    def get_object_spilling_config(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        if not rely_on_native("spill"):
            return wrapped(*args, **kwargs)
        from mantaray.spill.handover import prepare

        # Both attributes are the same dictionary, unless it is empty.
        system_configs = [node._config, node._ray_params._system_config or {}]
        return prepare(wrapped(*args, **kwargs), system_configs, takes_cap=takes_cap)

    takes_cap = Version(module.ray.__version__) >= Version(_KNOWS_CAP)
    installation.wrap(module.Node, "start_raylet", start_raylet)
    installation.wrap(module.Node, "_get_object_spilling_config", get_object_spilling_config)


def _install_utils(module: ModuleType, installation: Installation) -> None:
    def push_error_to_driver(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        from mantaray.spill.no_room import for_drivers

        bound = inspect.signature(wrapped).bind(*args, **kwargs)
        message = for_drivers(bound.arguments["message"])
        if message is None:
            return None
        bound.arguments["message"] = message
        return wrapped(*bound.args, **bound.kwargs)

    installation.wrap(module, "push_error_to_driver", push_error_to_driver)


def _install_knobs(module: ModuleType, installation: Installation) -> None:
    def start_raylet(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        from mantaray import knobs

        if not _known_directories(node):
            return wrapped(*args, **kwargs)
        started_with = signature.bind(node, *args, **kwargs).arguments
        machine = knobs.this_machine(
            started_with["object_store_memory"], started_with["fallback_directory"]
        )
        chosen = knobs.choose(machine, node._config, knobs.as_set_by_users(os.environ))
        with knobs.handing_on(chosen):
            return wrapped(*args, **kwargs)

    signature = inspect.signature(module.Node.start_raylet)
    installation.wrap(module.Node, "start_raylet", start_raylet)


def _install_worker(module: ModuleType, installation: Installation) -> None:
    gets: Any = None

    def get_objects(wrapped: Any, worker: Any, args: Any, kwargs: Any) -> Any:
        nonlocal gets
        # Imported at the first get, because most processes never get an object.
        if gets is None:
            from mantaray import settings
            from mantaray.spill.direct import DirectGets

            may_hold_bytes = settings.read_or_default(settings.SPILL_GET_BYTES.read, logger)
            gets = DirectGets(may_hold_bytes, lambda: rely_on_native("direct"))
        # Only a few of Ray's own calls pass more positional arguments. They want no values.
        if len(args) > 2 or kwargs.get("skip_deserialization"):
            return wrapped(*args, **kwargs)
        try:
            found = gets.read(worker, args[0] if args else kwargs["object_refs"])
        except Exception:
            logger.debug("Ray gets these objects.", exc_info=True)
            found = None
        if not found:
            return wrapped(*args, **kwargs)
        from mantaray.spill.direct import WorkerWith

        standing_in = WorkerWith(worker, found, module.serialization.SerializedRayObject)
        return wrapped.func(standing_in, *args, **kwargs)

    installation.wrap(module.Worker, "get_objects", get_objects)


def _install_serialization(module: ModuleType, installation: Installation) -> None:
    original = module.split_buffer

    def split_buffer(data: Any) -> Any:
        # Everything else is of Ray's own type, for which Ray's function is right.
        split = getattr(data, "split", None)
        return original(data) if split is None else split()

    installation.replace(module, "split_buffer", split_buffer)


def _known_directories(node: Any) -> list[str]:
    """Return the directories that a node spills to; none if its storage is of another type or invalid."""
    from mantaray.spill.config import SpillConfigError
    from mantaray.spill.handover import directories_of_node

    try:
        return directories_of_node(node._object_spilling_config, node._config)
    except SpillConfigError:
        # The patch `spill` or Ray itself reports this error.
        return []


def _spill_directories(node: Any) -> list[str]:
    """Return the directories that a starting node will spill to. At least one of them can be used.

    Raises:
        SpillConfigError: the configuration cannot work.
    """
    from mantaray.spill.config import make_usable, read_config
    from mantaray.spill.handover import directories_of_node

    directories = directories_of_node(node._object_spilling_config, node._config)
    if directories:
        read_config({})
        probe = f".mantaray-probe-{os.getpid()}"
        places = [(directory, 0) for directory in directories]
        for directory in make_usable(places, probe, at_least_one=True):
            os.rmdir(os.path.join(directory, probe))
    return directories


def _remove_leftovers(directories: list[str]) -> None:
    """Remove left-over directories in a process of its own, because this may take long."""
    subprocess.Popen(
        python_command("mantaray.spill.clean_main", *directories),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


_TARGETS = (
    *targets_in(_STORAGE, "setup_external_storage", "ExternalStorage"),
    *targets_in(_NODE, "Node.start_raylet", "Node._get_object_spilling_config"),
    Target(_UTILS, "push_error_to_driver"),
)

SPILL_PATCH = Patch(
    name="spill",
    summary="disk used by spilled objects follows the live ones; checksums; full-disk behaviour",
    plain_since=_KNOWS_CAP,
    enough_since=None,
    targets=_TARGETS,
    installers={_STORAGE: _install_storage, _NODE: _install_node, _UTILS: _install_utils},
    needs_native=True,
)

KNOBS_PATCH = Patch(
    name="knobs",
    summary="Ray's spilling knobs get values that suit the machine where the user set none",
    plain_since=None,
    enough_since=None,
    targets=(Target(_NODE, "Node.start_raylet"),),
    installers={_NODE: _install_knobs},
)

DIRECT_PATCH = Patch(
    name="direct",
    summary="`ray.get` reads objects that were spilled on its own node from their files",
    plain_since=None,
    enough_since=None,
    targets=(
        Target(_WORKER, "Worker.get_objects"),
        Target(_WORKER, "Worker.current_node_id"),
        *targets_in(
            _SERIALIZATION,
            "SerializationContext._deserialize_object",
            "SerializationContext._deserialize_msgpack_data",
            "SerializationContext._deserialize_pickle5_data",
        ),
    ),
    installers={_WORKER: _install_worker, _SERIALIZATION: _install_serialization},
    needs_native=True,
)

register(SPILL_PATCH)
register(KNOBS_PATCH)
register(DIRECT_PATCH)
