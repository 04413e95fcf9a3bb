"""The patches `logs` and `joblogs`: a job's log costs the memory of what is shown or under way.

`logs` is about the end of a log. Replaced are the two methods through which Ray reads the log of a
job's driver: the last lines, which become the message of a failed job, and the lines as they come,
which `ray job logs --follow` and `ray job submit` show. Stock Ray reads whole lines, however long
they are, on the event loop.

`joblogs` is about whole logs, which the agent and the head pass on piece by piece; see `streaming`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

from mantaray.overlay import Installation, Patch, Target, register, targets_of

_JOB = "ray.dashboard.modules.job"
_CLIENT = f"{_JOB}.job_log_storage_client"
_AGENT = f"{_JOB}.job_agent"
_HEAD = f"{_JOB}.job_head"
_HANDLE = "ray.dashboard.subprocesses.handle"
_ROUTES = "ray.dashboard.routes"
# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_FILES = {
    _CLIENT: (
        "832c8bb5636061c5e961706e7fa2a9844414dacd57a7660f4884e7fadb3907f1",
        "3a4e7ab8041e5adf50e4f572b6986fb42452074a687210e1f61e77f8b996c235",
    ),
    _AGENT: (
        "78c241070036e52cc84587ad08164c81cab765f5aa2fb9c64a0d4f29b46a5018",
        "c678d320baf25ca23dd4f6e810f42cc7de653861c59de2a34a29eff040d9e458",
    ),
    _HEAD: (
        "27137bf8132e625eaf196b224ce05af781d6be9c53b80b6d03d321fa6390acd0",
        "9c7ca80c225b6957fa7b943afe8a189ae41d63bf95f48d63e9ace567aa400646",
    ),
    _HANDLE: (
        "9dc60187387eef2fa142ec9869dbcbd7e6c357b02891e0cf25d50e2bc54dfd54",
        "cb8e7ce8504668eaa88252f1cdc4333bb53d1c60808fbf6984c0964ac62cbb4b",
    ),
    _ROUTES: (
        "1ebc7631a9137c41b51ddcbf70c5350c5a61d00a6e98caea2bf6a3700d0dbf86",
        "590321100be8ff925e4246d4394feb56a249894d578706b366f5fa6d47c68274",
    ),
    f"{_JOB}.job_manager": (
        "00a8ca76fac1f86dd68b56e08cbca9af6c67dfac49892186dd6471f1bd53e235",
        "5c022516ec2c710088bd46da315d3e35836cffbe32858fb7f542c673d5512a3d",
    ),
    f"{_JOB}.common": (
        "3572009373b97efe9617806116b36a40e876bdc98ff2122387c9c380dc5aad1e",
        "2826d9d87dfd2f2423f66e7a2971ee9e8c111264c454efa1483a48f65e3b9585",
    ),
    "ray.dashboard.subprocesses.module": (
        "e89b89c3ca92b1a345619f35995dd2c5eb282a1d3e78e74f675cf730d0f60aba",
        "f7ba51f221774e50b7883b3ea1e8925c9eacbccbd0cce11a68c2645b807d2e25",
    ),
    "ray.dashboard.subprocesses.routes": (
        "8ddebbc0f08404af2e157f2555bf7b4b04c768610cc2b19a69780a64fe86fba0",
    ),
}
_CLIENT_FINGERPRINTS = ("a3dee6a7e80def40", "3423d4bcf76f1982")
_WHOLE_LOG_FINGERPRINTS = {
    (_CLIENT, "JobLogStorageClient"): _CLIENT_FINGERPRINTS,
    (_AGENT, "JobAgent.get_job_logs"): ("40451b928b701e61",),
    (_ROUTES, "method_route_table_factory"): ("7978f4941ca3d8a4",),
    (_ROUTES, "BaseRouteTable.bound_routes"): ("98a6d916f6403800",),
    (f"{_JOB}.job_manager", "JobManager.get_job_logs"): ("cfed4634e698bd29",),
    (f"{_JOB}.common", "JobLogsResponse"): ("6022435ce94eba63",),
    (_HEAD, "JobHead.get_job_logs"): ("13e056b5d9014893",),
    (_HEAD, "JobAgentSubmissionClient.__init__"): ("c0f4bae47acd2c6d",),
    (_HEAD, "JobAgentSubmissionClient._raise_error"): ("1232a6ba9210c8f8",),
    (_HEAD, "JobAgentSubmissionClient.get_job_logs_internal"): (
        "8a8cb2d11b07d076",
        "72d8549c10826c38",
    ),
    (_HANDLE, "SubprocessModuleHandle.proxy_request"): ("77b064c8f65ae33c",),
    (_HANDLE, "SubprocessModuleHandle.proxy_http"): ("6544255693d06618",),
    (_HANDLE, "filter_hop_by_hop_headers"): ("97bce45279da3b56",),
    ("ray.dashboard.subprocesses.module", "SubprocessModule.run"): ("af8a9eb7403e3646",),
    ("ray.dashboard.subprocesses.routes", "SubprocessRouteTable"): ("3fd8a137e5bfdfed",),
}
_AGENT_ROUTE = "/api/job_agent/jobs/{job_or_submission_id}/logs"


def _install(module: ModuleType, installation: Installation) -> None:
    from mantaray.logs.following import Follower, LineBatches
    from mantaray.logs.reading import tail
    from mantaray.settings import LOG_REWRITES

    cls = module.JobLogStorageClient

    def last_lines(path: str, lines: int, max_chars: int) -> str:
        try:
            return tail(path, lines, max_chars, rewrites=LOG_REWRITES.read())
        except FileNotFoundError:
            return ""  # the job ended before it wrote anything
        except (OSError, ValueError) as error:
            # It becomes part of the message of a failed job, which must not get lost for it.
            return f"(the log cannot be shown: {error})"

    async def get_last_n_log_lines(
        client: Any, job_id: str, num_log_lines: int = cls.NUM_LOG_LINES_ON_ERROR
    ) -> str:
        path = client.get_log_file_path(job_id)
        return await asyncio.to_thread(last_lines, path, num_log_lines, client.MAX_LOG_SIZE)

    async def tail_logs(client: Any, job_id: str) -> AsyncIterator[list[str] | None]:
        follower = Follower(client.get_log_file_path(job_id))
        batches = LineBatches(follower)
        try:
            while True:
                yield await asyncio.to_thread(batches.next)
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

    The class's own method plays no part any more: the table holds what the decorator made of it.
    """
    from mantaray.logs.streaming import answering

    routes = module.routes.routes()._items
    (number,) = (at for at, route in enumerate(routes) if _leads_to(route, _AGENT_ROUTE))
    original = routes[number]
    handler = answering(original.handler)
    routes[number] = type(original)(original.method, original.path, handler, original.kwargs)
    installation.on_undo(lambda: routes.__setitem__(number, original))


def _leads_to(route: Any, path: str) -> bool:
    # Static directories are in the table as well; they have no method.
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


LOGS_PATCH = Patch(
    name="logs",
    summary="the end of a job's log in bounded memory and time, off the event loop",
    ray_versions=">=2.48,<2.61",
    plain_since="2.54",
    enough_since=None,
    targets=(Target(_CLIENT, "JobLogStorageClient", _CLIENT_FINGERPRINTS, _FILES[_CLIENT]),),
    installers={_CLIENT: _install},
)
JOBLOGS_PATCH = Patch(
    name="joblogs",
    summary="whole job logs go through agent and head piece by piece",
    ray_versions=">=2.48,<2.61",
    plain_since=None,
    enough_since=None,
    targets=targets_of(_WHOLE_LOG_FINGERPRINTS, _FILES),
    installers={
        _CLIENT: _install_noting,
        _AGENT: _install_agent,
        _HEAD: _install_head,
        _HANDLE: _install_proxy,
    },
)

register(LOGS_PATCH)
register(JOBLOGS_PATCH)
