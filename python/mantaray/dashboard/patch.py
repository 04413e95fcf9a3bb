"""The patches `profiling` and `pagelinks`: links to profilers that lead to the right process.

`profiling` is on every Ray: the endpoints find the node by its id, or by the process id where nodes
share an address. `pagelinks` gives the page of Ray 2.48 links with node ids, which later Rays have.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from mantaray.overlay import Installation, Patch, register, targets_of

_REPORTER = "ray.dashboard.modules.reporter.reporter_head"
_STATE = "ray.util.state.state_manager"
_SERVER = "ray.dashboard.http_server_head"
_ENDPOINTS = ("get_traceback", "cpu_profile", "memory_profile")

# The files of 2.48.0 and 2.60.0: a process that meets one of them does not parse it.
_FILES = {
    _REPORTER: (
        "50a60351cea0d8158e1448679b6105887f8a7a350fc532bb2bb0f0f0d279bf45",
        "08357f7480246e05145839b8a4ce5300dbef27be321403cf6d383b0458f333a7",
    ),
    _STATE: (
        "db7bd6b494b407fb5a75b0cd7bb3a19d6499e18214d15f13206f120e24394488",
        "9ae4aab317d67585714bda8ce4257939393611e653fae8634c99931135d7799d",
    ),
    _SERVER: ("0f660b0d5f395ca248cafe08b405f14a044323e9e364f981d70feb6b6e25f32b",),
}
_FINGERPRINTS = {
    (_REPORTER, "ReportHead.get_traceback"): ("55736112ef066fa3", "ebe5b9fa845c96f9"),
    (_REPORTER, "ReportHead.cpu_profile"): ("2bb2092b473384f5", "65c56256d9291226"),
    (_REPORTER, "ReportHead.memory_profile"): ("7d8f1a24b7e0dc02", "98f2f856b4554cf7"),
    (_REPORTER, "ReportHead._get_stub_address_by_ip"): ("ef5e28b74ae98443",),
    (_REPORTER, "ReportHead._get_stub_address_by_node_id"): ("f3c2960473300a27",),
    (_REPORTER, "ReportHead.run"): ("1d421cb327cb1b06", "f1acf8519964811a"),
    (_STATE, "StateDataSourceClient.get_all_node_info"): ("d4ab0adecfea1bd7", "8d122296848c72cd"),
    (_STATE, "StateDataSourceClient.get_all_worker_info"): ("1f4da624eacb77c0",),
}
_PAGE_FINGERPRINTS = {
    (_SERVER, "setup_static_dir"): ("0c189e01327e5fd1",),
    (_SERVER, "HttpServerDashboardHead.get_index"): ("afd1fd8cab0500a2",),
    (_SERVER, "HttpServerDashboardHead.cache_control_static_middleware"): ("14c38859f98e2fcc",),
}


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


PROFILING_PATCH = Patch(
    name="profiling",
    summary="profiling endpoints find the process by node id, or by pid on a shared address",
    ray_versions=">=2.48,<2.61",
    plain_since="2.50",
    enough_since=None,
    targets=targets_of(_FINGERPRINTS, _FILES),
    installers={_REPORTER: _install_endpoints},
)
PAGELINKS_PATCH = Patch(
    name="pagelinks",
    summary="the dashboard's profiling links carry node ids",
    ray_versions=">=2.48,<2.61",
    plain_since="2.50",
    enough_since="2.50",
    targets=targets_of(_PAGE_FINGERPRINTS, _FILES),
    installers={_SERVER: _install_page},
)

register(PROFILING_PATCH)
register(PAGELINKS_PATCH)
