"""The relay's program under ASan and UBSan, and under TSan, with real traffic: they say nothing.

The C++ tests run under sanitizers everywhere, but the edges of the relay (gRPC, threads, shutdown)
have no test without a network. So the whole program is built with them, and proxies and syncs here.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import free_ports
from tests.support.rays import REPOSITORY, VERSIONS, find_ray
from tests.support.relays import RelayAdmin, wait_until

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import sync_arms

# They build the program, with all it consists of, twice.
pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).with_name("programs")
BUILDS = {"asan-ubsan": ("--config=asan", "--config=ubsan"), "tsan": ("--config=tsan",)}
# What orders a thread that hands something to gRPC and the one that gets it back from there is a lock of
# gRPC's core, which is not instrumented. These are all the places where the relay gets something back:
SUPPRESSIONS = r"""
# What the sync thread has begun, gRPC finishes inside of Next on the proxy's thread, which polls for both.
race:grpc::CompletionQueue::AsyncNextInternal
# Next returned the event, and it is dispatched. Only the top frame counts, not what the event does.
race_top:^mantaray::relay::EventLoop::Run()$
race_top:^mantaray::relay::PostedEvent<*>::OnEvent(bool)$
race_top:^mantaray::relay::MethodEvent<*>::OnEvent(bool)$
# A stream of the sync thread's is accepted: it is posted to that thread, or deleted at the end.
race:^mantaray::relay::SyncStream::OnAccepted(bool)$
# A frame was sent, on whichever thread of gRPC's, and its bytes are let go.
race:DropOwner
"""
# Under TSan everything takes its time.
TIMEOUT_S = 600.0


class Sanitized:
    """A relay's program that was built with sanitizers.

    Args:
        name: of the build.
        directory: where it and its reports go.
    """

    def __init__(self, name: str, directory: Path) -> None:
        options = BUILDS[name]
        sync_arms.bazel("build", *options, sync_arms.RELAY)
        built = Path(sync_arms.bazel("info", *options, "bazel-bin"))
        # A copy: the next build may take its place.
        self.program = directory / "mantaray-relay"
        shutil.copyfile(built / "src/mantaray/relay/mantaray-relay", self.program)
        self.program.chmod(0o755)
        self._directory = directory
        suppressions = directory / "suppressions"
        suppressions.write_text(SUPPRESSIONS)
        log = f"log_path={directory / 'report'}"
        self.variables = {
            "ASAN_OPTIONS": f"{log}:detect_leaks=1:detect_container_overflow=0",
            "UBSAN_OPTIONS": f"{log}:print_stacktrace=1",
            # The distribution's gRPC is not instrumented, so that TSan does not see its locks: whatever
            # passes from one of its threads to another looks like a race. What is done inside its
            # libraries does not count, what the relay does with the result does.
            "TSAN_OPTIONS": f"{log}:halt_on_error=0:ignore_noninstrumented_modules=1"
            f":suppressions={suppressions}",
        }

    def reports(self) -> str:
        """Return all that the sanitizers said, of all processes."""
        return "\n".join(path.read_text() for path in sorted(self._directory.glob("report*")))


@pytest.fixture(scope="module", params=BUILDS)
def sanitized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sanitized]:
    """The program, once for each build."""
    if shutil.which("bazel") is None:
        pytest.skip("bazel is not installed")
    yield Sanitized(request.param, tmp_path_factory.mktemp(request.param))


def test_the_proxy_makes_no_sanitizer_speak(sanitized: Sanitized) -> None:
    seen = find_ray(VERSIONS[-1]).run_program(
        PROGRAMS / "relay_proxy.py", [sanitized.program], sanitized.variables, TIMEOUT_S
    )
    assert sanitized.reports() == ""
    assert seen["status"] == 0
    for way in ("through", "through_two"):
        assert all(seen[way][what] for what in ("echo", "big", "talk", "greeted", "cancels"))
    assert (seen["drained"], seen["not_drained"]) == (True, "UNAVAILABLE")


@pytest.mark.parametrize("ray", VERSIONS)
def test_sync_with_a_real_gcs_makes_no_sanitizer_speak(
    sanitized: Sanitized, ray: str, tmp_path: Path
) -> None:
    port, admin_port = free_ports(2)
    env = find_ray(ray)
    with sync_arms.gcs_server(ray, tmp_path, {}) as (_, gcs_port):
        gcs = f"127.0.0.1:{gcs_port}"
        options = [f"--upstream={gcs}", f"--listen=127.0.0.1:{port}", "--grace-ms=500"]
        options += [f"--admin-listen=127.0.0.1:{admin_port}", f"--parent-pid={os.getpid()}"]
        with sync_arms.process(
            [str(sanitized.program), *options],
            tmp_path,
            "relay",
            env.environment(**sanitized.variables),
        ) as relay:
            admin = RelayAdmin(admin_port)
            assert wait_until(lambda: admin.answer("/healthz") == 200)
            address, dialect = f"127.0.0.1:{port}", sync_arms.DIALECTS[ray]
            arguments = [address, gcs, dialect]
            seen = env.run_program(PROGRAMS / "relay_sync.py", arguments, timeout_s=TIMEOUT_S)
            # Its nodes leave the view after the grace time, and are withdrawn from the GCS.
            assert wait_until(lambda: admin.carried() == 0)
            assert wait_until(lambda: admin.metric("mantaray_relay_sync_nodes_left_total") > 0)
            relay.terminate()
            status = relay.wait(60)
    said = (tmp_path / "relay.log").read_text()
    assert sanitized.reports() == ""
    assert "runtime error" not in said
    assert "Sanitizer" not in said
    assert status == 0, said
    assert seen == {
        **{"up": True, "down": True, "across": True, "own": False},
        **{"hostile": 13, "replaced": True, "again": True},
    }
