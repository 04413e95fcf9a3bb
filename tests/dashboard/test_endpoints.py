"""Profiling endpoints on live clusters whose two nodes share an address."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

import pytest

from tests.support.profiled import Answer, Profiled, Worker, get, two_nodes_on_one_address
from tests.support.rays import RayEnv

pytestmark = pytest.mark.needs_root
STACK, CPU, MEMORY = "worker/traceback", "worker/cpu_profile", "memory_profile"


def parameters(path: str, **more: object) -> dict[str, object]:
    """Return what a link to a profiler has besides the process."""
    return ({} if path == STACK else {"duration": 1}) | more


def shows(profiled: Profiled, worker: Worker, text: str) -> bool:
    """Return whether a profile is of this worker and not of the other."""
    return worker.frame in text and profiled.other(worker).frame not in text


@pytest.mark.parametrize("path", [STACK, CPU])
@pytest.mark.parametrize("name", ["first", "second"])
def test_link_by_node_id_shows_the_process_of_that_node(
    profiled: Profiled, path: str, name: str
) -> None:
    worker = getattr(profiled, name)
    answer = profiled.get(path, parameters(path, pid=worker.pid, node_id=worker.node_id))
    assert answer.status == 200, answer.text
    assert shows(profiled, worker, answer.text)


@pytest.mark.parametrize("path", [STACK, CPU])
@pytest.mark.parametrize("name", ["first", "second"])
def test_old_link_by_shared_ip_is_redirected_to_the_node_that_has_the_process(
    profiled: Profiled, path: str, name: str
) -> None:
    worker = getattr(profiled, name)
    answer = profiled.get(path, parameters(path, pid=worker.pid, ip=profiled.ip, native=0))
    assert answer.status == 200, answer.text
    assert f"node_id={worker.node_id}" in answer.url
    assert "native=0" in answer.url
    assert shows(profiled, worker, answer.text)


@pytest.mark.parametrize("name", ["first", "second"])
def test_old_memory_link_by_shared_ip_is_redirected_to_the_node_that_has_the_process(
    profiled: Profiled, name: str
) -> None:
    # What the link leads to is looked at in the browser: memray may be the end of a process.
    worker = getattr(profiled, name)
    link = parameters(MEMORY, pid=worker.pid, ip=profiled.ip, format="flamegraph")
    path, _, query = profiled.redirection(MEMORY, link).partition("?")
    assert path == MEMORY
    told = dict(urllib.parse.parse_qsl(query))
    wanted = {"pid": str(worker.pid), "node_id": worker.node_id}
    assert told == wanted | {"duration": "1", "format": "flamegraph"}


def test_node_id_with_its_own_ip_and_in_capitals_is_understood(profiled: Profiled) -> None:
    worker = profiled.first
    both = {"pid": worker.pid, "node_id": worker.node_id.upper(), "ip": profiled.ip}
    answer = profiled.get(STACK, both)
    assert (answer.status, shows(profiled, worker, answer.text)) == (200, True), answer.text


@pytest.mark.parametrize("path", [STACK, CPU, MEMORY])
@pytest.mark.parametrize(
    ("link", "status", "words"),
    [
        ({"pid": 1, "node_id": "ab" * 28}, 404, "No live node has the node_id abab"),
        ({"pid": 1, "node_id": "xy" * 28}, 400, "56 hexadecimal digits"),
        ({"pid": 1, "node_id": "abc"}, 400, "56 hexadecimal digits"),
        ({"pid": 1, "ip": "192.0.2.1"}, 404, "No live node has the address 192.0.2.1"),
        ({"pid": "one", "ip": "127.0.0.2"}, 400, "pid must be the number of a process"),
    ],
)
def test_bad_link_is_told_in_one_sentence(
    profiled: Profiled, path: str, link: dict[str, object], status: int, words: str
) -> None:
    answer = profiled.get(path, link)
    assert (answer.status, words in answer.text) == (status, True), answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("path", [STACK, CPU, MEMORY])
def test_node_id_and_ip_that_contradict_each_other_are_refused(
    profiled: Profiled, path: str
) -> None:
    worker = profiled.second
    link = {"pid": worker.pid, "node_id": worker.node_id, "ip": "192.0.2.1"}
    answer = profiled.get(path, link)
    assert (answer.status, "contradict" in answer.text) == (400, True), answer.text


@pytest.mark.parametrize("path", [STACK, CPU, MEMORY])
def test_process_on_no_node_of_the_address_lists_the_nodes(profiled: Profiled, path: str) -> None:
    answer = profiled.get(path, {"pid": 4_000_000, "ip": profiled.ip})
    assert answer.status == 404
    for worker in (profiled.first, profiled.second):
        link = f"{path.rpartition('/')[2]}?pid=4000000&node_id={worker.node_id}"
        assert link in answer.text


# Two nodes with process ids of their own; pids are steered until one is on both.
_SAME_PID = """
import json, os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

ray.init(log_to_driver=False)

@ray.remote(num_cpus=0)
class Held:
    def pid(self):
        return os.getpid()
    def next_pid(self, pid):
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(pid - 1))

def on(node, count):
    how = Held.options(lifetime="detached", scheduling_strategy=OnNode(node, soft=False))
    return [how.remote() for _ in range(count)]

second, third = (n["NodeID"] for n in ray.nodes()
                 if n["Alive"] and "node:__internal_head__" not in n["Resources"])
helpers = on(second, 1) + on(third, 1)
ray.get([h.pid.remote() for h in helpers])
both, kept = set(), []
for start in range(20_000, 30_000, 1_000):
    # Workers that lie idle would be taken; so many at once are new.
    ray.get([h.next_pid.remote(start) for h in helpers])
    a, b = on(second, 3), on(third, 3)
    kept += a + b
    pids = [set(ray.get([actor.pid.remote() for actor in side])) for side in (a, b)]
    both = pids[0] & pids[1]
    if both:
        break
print(json.dumps([sorted(both), second, third]))
"""


@dataclass(frozen=True)
class SamePid:
    """A process id that two nodes of one address had, until one of the nodes ended.

    Attributes:
        pid: the process id.
        stays, ended: ids of the two nodes.
        by_ip: what the link by address answered while both lived.
        by_node_id: what the links by node id answered then, in the order of the nodes.
    """

    pid: int
    stays: str
    ended: str
    by_ip: Answer
    by_node_id: list[Answer]


@pytest.fixture(scope="module")
def same_pid(profiled: Profiled) -> SamePid:
    """A third node, whose links were asked for and which has ended since."""
    node = profiled.cluster.add_node(own_pids=True)
    try:
        (pid, *_), *both = profiled.cluster.run_program(_SAME_PID)
        stays = profiled.second.node_id
        (ended,) = set(both) - {stays}
        return SamePid(
            pid,
            stays,
            ended,
            profiled.get(STACK, {"pid": pid, "ip": profiled.ip}),
            [profiled.get(STACK, {"pid": pid, "node_id": each}) for each in (stays, ended)],
        )
    finally:
        node.process.kill()
        # A driver takes any raylet of its address that the cluster believes to be alive.
        profiled.cluster.wait_for_nodes(2)


def test_process_id_on_two_nodes_of_the_address_is_never_guessed(
    profiled: Profiled, same_pid: SamePid
) -> None:
    answer, pid = same_pid.by_ip, same_pid.pid
    assert answer.status == 409, answer.text
    for node_id in (same_pid.stays, same_pid.ended):
        assert f"traceback?pid={pid}&node_id={node_id}" in answer.text
    for chosen in same_pid.by_node_id:
        assert (chosen.status, f"Process {pid}" in chosen.text) == (200, True), chosen.text
    assert profiled.first.node_id not in answer.text


def test_link_kept_from_before_a_node_was_restarted_shows_no_other_process(
    profiled: Profiled, same_pid: SamePid
) -> None:
    pid = same_pid.pid
    kept = profiled.get(STACK, {"pid": pid, "node_id": same_pid.ended})
    assert (kept.status, "unknown or dead" in kept.text) == (404, True), kept.text
    # By address there is one process with that id now.
    by_ip = profiled.get(STACK, {"pid": pid, "ip": profiled.ip})
    assert (by_ip.status, same_pid.stays in by_ip.url) == (200, True), by_ip.text


_WORK_OF_DRIVER = """
import time, ray

def work_of_driver():
    while True:
        time.sleep(0.01)

ray.init()
work_of_driver()
"""
# Submits the above so that it runs on the second node; prints what Ray says of the driver.
_SUBMIT = """
import json, sys, time
from ray.job_submission import JobSubmissionClient

client = JobSubmissionClient(sys.argv[1])
where = {"second": 0.1}
job = client.submit_job(entrypoint=f"python {sys.argv[2]}", entrypoint_resources=where)
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    info = client.get_job_info(job)
    if info.driver_info is not None or str(info.status) in ("FAILED", "STOPPED"):
        break
    time.sleep(0.5)
driver = info.driver_info
told = driver and [int(driver.pid), driver.node_ip_address, info.driver_node_id]
print(json.dumps([job, str(info.status), told]))
"""


def test_link_to_a_driver_on_a_worker_node_shows_the_driver(profiled: Profiled) -> None:
    if profiled.cluster.env.version == "2.48.0":
        # And then the GCS lists the driver with that raylet's node.
        pytest.skip("a driver of Ray 2.48 connects to any raylet of its address")
    url = profiled.cluster.dashboard_url
    program = profiled.cluster.root / "driver.py"
    program.write_text(_WORK_OF_DRIVER)
    job, status, driver = profiled.cluster.run_program(_SUBMIT, [url, program])
    assert driver is not None, (job, status)
    pid, ip, node_id = driver
    links = [{"pid": pid, "ip": ip}, {"pid": pid, "node_id": node_id}]
    for link in links:
        answer = profiled.get(STACK, link)
        assert (answer.status, "work_of_driver" in answer.text) == (200, True), answer.text
        assert profiled.second.node_id in answer.url
    stop = "import sys; from ray.job_submission import JobSubmissionClient as Client; "
    stop += "print(int(Client(sys.argv[1]).stop_job(sys.argv[2])))"
    assert profiled.cluster.run_program(stop, [url, job]) == 1


def test_task_endpoints_answer_as_stock(profiled: Profiled) -> None:
    worker = profiled.first
    link = {"task_id": "00" * 24, "attempt_number": 0, "node_id": "ab" * 28}
    for path in ("task/traceback", "task/cpu_profile"):
        answer = profiled.get(path, link)
        assert answer.status == 500
        assert "Failed to get agent address for node abab" in answer.text
        assert profiled.get(path, {"task_id": "00" * 24, "attempt_number": 0}).status == 500
    no_such_task = profiled.get("memory_profile", link | {"pid": worker.pid})
    assert no_such_task.status == 500
    assert "no agent address found for node abab" in no_such_task.text


def test_running_task_is_profiled_by_its_own_link(profiled: Profiled) -> None:
    paths = ["task/traceback", "task/cpu_profile"]
    seen = profiled.cluster.run_program(_TASK, [profiled.cluster.dashboard_url, *paths])
    assert seen == dict.fromkeys(paths, True)


@pytest.mark.slow
def test_memory_of_a_running_task_is_profiled_by_its_own_link(profiled: Profiled) -> None:
    # memray's debugger may be the end of a process: then another one is tried.
    seen = profiled.cluster.run_program(_TASK, [profiled.cluster.dashboard_url, *[MEMORY] * 6])
    assert seen == {MEMORY: True}


_TASK = """
import json, sys, time, urllib.error, urllib.parse, urllib.request, ray
from ray.util.state import list_tasks

ray.init(log_to_driver=False)

@ray.remote
def work_of_task():
    while True:
        kept = [bytearray(500_000) for _ in range(20)]
        sum(range(100_000))
        time.sleep(0.01)

def running_task():
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for task in list_tasks(detail=True, filters=[("state", "=", "RUNNING")]):
            # What is listed is some seconds old.
            if task.name == "work_of_task" and task.task_id not in dead:
                return task
        time.sleep(0.3)

seen, dead = {}, set()
ref = work_of_task.options(max_retries=0).remote()
for path in sys.argv[2:]:
    if seen.get(path) is True:
        continue
    task = running_task()
    names = {"task_id": task.task_id, "attempt_number": task.attempt_number}
    query = urllib.parse.urlencode(names | {"node_id": task.node_id, "duration": 1})
    try:
        with urllib.request.urlopen(f"{sys.argv[1]}/{path}?{query}") as reply:
            seen[path] = "work_of_task" in reply.read().decode()
    except urllib.error.HTTPError as error:
        seen[path] = error.read().decode()
        dead.add(task.task_id)
        ray.cancel(ref, force=True)
        ref = work_of_task.options(max_retries=0).remote()
ray.cancel(ref, force=True)
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_switched_off_patches_leave_stock_answers(ray_env: RayEnv) -> None:
    with two_nodes_on_one_address(ray_env, MANTARAY_PATCHES="-profiling,-pagelinks") as stock:
        links = {"pid": stock.first.pid, "ip": stock.ip}
        answer = stock.get(STACK, links)
        assert answer.status == 500
        assert not shows(stock, stock.first, answer.text)
        assert "mantaray" not in get(stock.cluster.dashboard_url).text


@pytest.mark.slow
def test_last_node_of_a_shared_address_is_found_by_it_when_the_others_died(
    profiled: Profiled,
) -> None:
    dead = profiled.second
    profiled.cluster.nodes[1].process.kill()
    worker = profiled.first
    profiled.cluster.wait_for_nodes(1)
    answer = profiled.get(STACK, {"pid": worker.pid, "ip": profiled.ip})
    assert (answer.status, shows(profiled, worker, answer.text)) == (200, True), answer.text
    gone = profiled.get(STACK, {"pid": dead.pid, "node_id": dead.node_id})
    assert (gone.status, "unknown or dead" in gone.text) == (404, True)
