"""The patches `profiling` and `pagelinks`: links to profilers that lead to the right process.

`profiling` acts on every Ray: the endpoints find the node by its id, or by the process id if nodes
share an address. `pagelinks` puts node ids into the links of the pages of Ray 2.48 and 2.49. Later
releases have them.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from mantaray.overlay import Installation, Patch, register, targets_in

_REPORTER = "ray.dashboard.modules.reporter.reporter_head"
_STATE = "ray.util.state.state_manager"
_SERVER = "ray.dashboard.http_server_head"
_ENDPOINTS = ("get_traceback", "cpu_profile", "memory_profile")


def _install_endpoints(module: ModuleType, installation: Installation) -> None:
    from mantaray.dashboard.endpoints import answering, resolving

    head = module.ReportHead
    for name in _ENDPOINTS:
        installation.replace(head, name, resolving(module, vars(head)[name]))
    by_ip = "_get_stub_address_by_ip"
    installation.replace(head, by_ip, answering(vars(head)[by_ip]))


def _install_page(module: ModuleType, installation: Installation) -> None:
    from mantaray.dashboard.page import read_page, serving

    assert module.__file__ is not None
    page = read_page(Path(module.__file__).parent / "client" / "build")
    server = module.HttpServerDashboardHead
    name = "cache_control_static_middleware"
    installation.replace(server, name, serving(page, vars(server)[name]))


_PROFILING_TARGETS = (
    *targets_in(_REPORTER, *(f"ReportHead.{name}" for name in _ENDPOINTS)),
    *targets_in(
        _REPORTER,
        "ReportHead._get_stub_address_by_ip",
        "ReportHead._get_stub_address_by_node_id",
        "ReportHead.run",
    ),
    *targets_in(
        _STATE,
        "StateDataSourceClient.get_all_node_info",
        "StateDataSourceClient.get_all_worker_info",
    ),
)
_PAGE_TARGETS = targets_in(
    _SERVER,
    "setup_static_dir",
    "HttpServerDashboardHead.get_index",
    "HttpServerDashboardHead.cache_control_static_middleware",
)

PROFILING_PATCH = Patch(
    name="profiling",
    summary="profiling endpoints find the process by node id, or by pid on a shared address",
    plain_since="2.50",
    enough_since=None,
    targets=_PROFILING_TARGETS,
    installers={_REPORTER: _install_endpoints},
)
PAGELINKS_PATCH = Patch(
    name="pagelinks",
    summary="the dashboard's profiling links carry node ids",
    plain_since="2.50",
    enough_since="2.50",
    targets=_PAGE_TARGETS,
    installers={_SERVER: _install_page},
)

register(PROFILING_PATCH)
register(PAGELINKS_PATCH)
