"""The patch `relay`: if MANTARAY_RELAY_PORT is set, the head starts a relay and keeps it running.

When the head's own processes are up, the patch starts a supervisor (`mantaray.syncer.supervise_main`),
which ends when they are gone. Without the setting nothing changes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

from mantaray.helpers import python_command
from mantaray.overlay import Installation, Patch, register, targets_in
from mantaray.settings import (
    RELAY_ADMIN_PORT,
    RELAY_HOST,
    RELAY_MAX_MEMORY_BYTES,
    RELAY_PORT,
    RELAY_UPSTREAM_TIMEOUT_MS,
    ending_the_start,
)

_NODE = "ray._private.node"


def _check_for_start() -> None:
    """Check the settings, and that the relay is installed, before anything is started.

    Raises:
        StartError: a setting is not allowed; one sentence.
    """
    with ending_the_start():
        for setting in (
            *(RELAY_ADMIN_PORT, RELAY_HOST),
            *(RELAY_UPSTREAM_TIMEOUT_MS, RELAY_MAX_MEMORY_BYTES),
        ):
            setting.read()
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
            _start_relay(node, port)
        return result

    installation.wrap(module.Node, "start_head_processes", start_head_processes)
    installation.wrap(module.Node, "start_ray_processes", start_ray_processes)


def relay_options(gcs_address: str, port: int) -> list[str]:
    """Return the options of the head's relay.

    The relay listens on the address that the head gave to Ray, so that it stays on the same network.

    Args:
        gcs_address: HOST:PORT of the head's GCS, where HOST is the head's `--node-ip-address`.
        port: where nodes connect.
    """
    host, admin_port = RELAY_HOST.read(), RELAY_ADMIN_PORT.read()
    if host is None:
        host = gcs_address.rpartition(":")[0].strip("[]")
    max_memory_bytes = RELAY_MAX_MEMORY_BYTES.read()
    return [
        f"--upstream={gcs_address}",
        f"--listen={f'[{host}]' if ':' in host else host}:{port}",
        # Port 0 takes any free port. The supervisor asks there whether the relay is alive.
        f"--admin-listen=127.0.0.1:{admin_port or 0}",
        f"--upstream-timeout-ms={RELAY_UPSTREAM_TIMEOUT_MS.read()}",
        *([f"--max-memory-bytes={max_memory_bytes}"] if max_memory_bytes else []),
    ]


def _start_relay(node: Any, port: int) -> None:
    pids = [
        info.process.pid
        for name, infos in node.all_processes.items()
        if name in ("gcs_server", "raylet")
        for info in infos
    ]
    log = Path(node.get_logs_dir_path()) / "mantaray-relay.log"
    watched = ",".join(map(str, pids))
    options = relay_options(node.gcs_address, port)
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
