"""The patch `relay`: where MANTARAY_RELAY_PORT is set, the head starts a relay and keeps it running.

Once the head's own processes are up, a supervisor is started (`mantaray.syncer.supervise_main`), which
goes when they are gone. Without the setting nothing is different.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

from mantaray.helpers import python_command
from mantaray.overlay import Installation, Patch, register, targets_in
from mantaray.settings import RELAY_ADMIN_PORT, RELAY_PORT, ending_the_start

_NODE = "ray._private.node"


def _check_for_start() -> None:
    """Find a bad value, or that there is no relay, before anything is started.

    Raises:
        StartError: a setting is not allowed; one sentence.
    """
    with ending_the_start():
        RELAY_ADMIN_PORT.read()
        port = RELAY_PORT.read()
    if port is not None:
        from mantaray.syncer.relay import relay_program

        relay_program()


def _install_node(module: ModuleType, installation: Installation) -> None:
    def start_head_processes(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        _check_for_start()
        return wrapped(*args, **kwargs)

    def start_ray_processes(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        port = RELAY_PORT.read()
        if port is not None and node.head:
            _start_relay(node, port, RELAY_ADMIN_PORT.read())
        return result

    installation.wrap(module.Node, "start_head_processes", start_head_processes)
    installation.wrap(module.Node, "start_ray_processes", start_ray_processes)


def _start_relay(node: Any, port: int, admin_port: int | None) -> None:
    pids = [
        info.process.pid
        for name, infos in node.all_processes.items()
        if name in ("gcs_server", "raylet")
        for info in infos
    ]
    log = Path(node.get_logs_dir_path()) / "mantaray-relay.log"
    options = [f"--upstream={node.gcs_address}", f"--listen=0.0.0.0:{port}"]
    options.append(f"--admin-listen={f'127.0.0.1:{admin_port}' if admin_port else ''}")
    watched = ",".join(map(str, pids))
    command = python_command("mantaray.syncer.supervise_main", watched, str(log), *options)
    with open(log, "ab") as output:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


RELAY_PATCH = Patch(
    name="relay",
    summary="MANTARAY_RELAY_PORT starts a relay for resource-view sync on the head",
    plain_since=None,
    enough_since=None,
    targets=targets_in(
        _NODE, "Node.start_ray_processes", "Node.get_logs_dir_path", "Node.gcs_address"
    ),
    installers={_NODE: _install_node},
)

register(RELAY_PATCH)
