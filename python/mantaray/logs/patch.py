"""The patches `logs`, `joblogs` and `retention`: logs read in bounded memory, and old ones removed.

`logs` is about the end of a log. It replaces the two methods with which Ray reads the log of a
job's driver. One reads the last lines, which become the message of a failed job. The other reads
new lines, which `ray job logs --follow` and `ray job submit` show. Stock Ray reads whole lines,
however long they are, on the event loop.

With `joblogs` the agent and the head pass whole logs on piece by piece; see `streaming`.

`retention` starts a process beside each raylet that removes old logs, if a setting limits them.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mantaray.helpers import python_command
from mantaray.overlay import Installation, Patch, Target, register, targets_in

_JOB = "ray.dashboard.modules.job"
_CLIENT = f"{_JOB}.job_log_storage_client"
_AGENT = f"{_JOB}.job_agent"
_HEAD = f"{_JOB}.job_head"
_HANDLE = "ray.dashboard.subprocesses.handle"
_ROUTES = "ray.dashboard.routes"
_NODE = "ray._private.node"
_AGENT_ROUTE = "/api/job_agent/jobs/{job_or_submission_id}/logs"


def _install(module: ModuleType, installation: Installation) -> None:
    from mantaray.logs.following import Follower, LineBatches
    from mantaray.logs.pool import in_thread
    from mantaray.logs.reading import tail
    from mantaray.settings import LOG_REWRITES

    cls = module.JobLogStorageClient

    def last_lines(path: str, lines: int, max_chars: int) -> str:
        try:
            return tail(path, lines, max_chars, rewrites=LOG_REWRITES.read())
        except FileNotFoundError:
            return ""  # The job ended before it wrote anything.
        except (OSError, ValueError) as error:
            # The text becomes a part of the message of a failed job, which must not be lost.
            return f"(the log cannot be shown: {error})"

    async def get_last_n_log_lines(
        client: Any, job_id: str, num_log_lines: int = cls.NUM_LOG_LINES_ON_ERROR
    ) -> str:
        path = client.get_log_file_path(job_id)
        return await in_thread(last_lines, path, num_log_lines, client.MAX_LOG_SIZE)

    async def tail_logs(client: Any, job_id: str) -> AsyncIterator[list[str] | None]:
        follower = Follower(client.get_log_file_path(job_id))
        batches = LineBatches(follower)
        try:
            while True:
                yield await in_thread(batches.next)
        finally:
            follower.close()

    installation.replace(cls, "get_last_n_log_lines", get_last_n_log_lines)
    installation.replace(cls, "tail_logs", tail_logs)


def _install_noting(module: ModuleType, installation: Installation) -> None:
    from mantaray.logs.streaming import noting

    cls = module.JobLogStorageClient
    installation.replace(cls, "get_logs", noting(cls.get_logs))


def _install_agent(module: ModuleType, installation: Installation) -> None:
    """Put another handler into the table of routes, from which the agent's server is made later.

    The class's own method is not used any more, because the table contains what the decorator made
    of it.
    """
    from mantaray.logs.streaming import answering

    routes = module.routes.routes()._items
    (number,) = (at for at, route in enumerate(routes) if _leads_to(route, _AGENT_ROUTE))
    original = routes[number]
    handler = answering(original.handler)
    routes[number] = type(original)(original.method, original.path, handler, original.kwargs)
    installation.on_undo(lambda: routes.__setitem__(number, original))


def _leads_to(route: Any, path: str) -> bool:
    # Static directories are in the table too. They have no method.
    return getattr(route, "method", None) == "GET" and route.path == path


def _install_head(module: ModuleType, installation: Installation) -> None:
    from mantaray.logs.streaming import fetching, passing_on

    head, client = module.JobHead, module.JobAgentSubmissionClient
    installation.replace(head, "get_job_logs", passing_on(head.get_job_logs))
    name = "get_job_logs_internal"
    installation.replace(client, name, fetching(module, vars(client)[name]))


def _install_proxy(module: ModuleType, installation: Installation) -> None:
    from mantaray.logs.streaming import proxying

    cls = module.SubprocessModuleHandle
    installation.replace(cls, "proxy_request", proxying(module, cls.proxy_request))


_WHOLE_LOG_TARGETS = (
    Target(_CLIENT, "JobLogStorageClient"),
    Target(_AGENT, "JobAgent.get_job_logs"),
    *targets_in(_ROUTES, "method_route_table_factory", "BaseRouteTable.bound_routes"),
    Target(f"{_JOB}.job_manager", "JobManager.get_job_logs"),
    Target(f"{_JOB}.common", "JobLogsResponse"),
    *targets_in(
        _HEAD,
        "JobHead.get_job_logs",
        "JobAgentSubmissionClient.__init__",
        "JobAgentSubmissionClient._raise_error",
        "JobAgentSubmissionClient.get_job_logs_internal",
    ),
    *targets_in(
        _HANDLE,
        "SubprocessModuleHandle.proxy_request",
        "SubprocessModuleHandle.proxy_http",
        "filter_hop_by_hop_headers",
    ),
    Target("ray.dashboard.subprocesses.module", "SubprocessModule.run"),
    Target("ray.dashboard.subprocesses.routes", "SubprocessRouteTable"),
)


def _install_node(module: ModuleType, installation: Installation) -> None:
    def start_ray_processes(wrapped: Any, node: Any, args: Any, kwargs: Any) -> Any:
        from mantaray.logs.retention_settings import read_limits
        from mantaray.settings import ending_the_start

        with ending_the_start():
            limits = read_limits()
        result = wrapped(*args, **kwargs)
        if limits.any:
            _start_retention(node)
        return result

    installation.wrap(module.Node, "start_ray_processes", start_ray_processes)


def _start_retention(node: Any) -> None:
    directory = node.get_logs_dir_path()
    pid = node.all_processes["raylet"][0].process.pid
    with open(Path(directory) / "mantaray-retention.log", "ab") as output:
        subprocess.Popen(
            python_command("mantaray.logs.retain_main", str(pid), str(directory)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


LOGS_PATCH = Patch(
    name="logs",
    summary="the end of a job's log in bounded memory and time, off the event loop",
    plain_since="2.54",
    enough_since=None,
    targets=(Target(_CLIENT, "JobLogStorageClient"),),
    installers={_CLIENT: _install},
)
JOBLOGS_PATCH = Patch(
    name="joblogs",
    summary="whole job logs go through agent and head piece by piece",
    plain_since=None,
    enough_since=None,
    targets=_WHOLE_LOG_TARGETS,
    installers={
        _CLIENT: _install_noting,
        _AGENT: _install_agent,
        _HEAD: _install_head,
        _HANDLE: _install_proxy,
    },
)

RETENTION_PATCH = Patch(
    name="retention",
    summary="MANTARAY_LOG_RETENTION_BYTES and _AGE_S remove a node's old logs",
    plain_since=None,
    enough_since=None,
    targets=targets_in(_NODE, "Node.start_ray_processes", "Node.get_logs_dir_path"),
    installers={_NODE: _install_node},
)

register(LOGS_PATCH)
register(JOBLOGS_PATCH)
register(RETENTION_PATCH)
