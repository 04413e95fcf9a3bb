"""The smoke of one Ray: the same work on a stock cluster and on ours, and what each patch did in it.

One cluster an arm. One further node shares the head's address and has process ids of its own, so that a
profiling link by address has something to get wrong. On our arm two more nodes join through the head's
relay. The stock arm runs in an environment into which Mantaray cannot be imported at all.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cluster import Cluster
from .job_logs import memory_mb, run_job, watch_memory
from .profiled import Profiled, start_workers
from .rays import RayEnv
from .relays import RelayAdmin, heads_relay, wait_until
from .smoke_nodes import (
    GRACE_PERIOD,
    NOT_TRIED,
    Ending,
    ask_doctor,
    deliver_notices_twice,
    environment_of,
    leave_old_log,
    raylet_of,
    release_twice,
)

PROGRAMS = Path(__file__).resolve().parents[1] / "ray" / "programs"
BEHIND_RELAY = ("n0", "n1")
LONG_LINE_MB = 100
LOG_MB = 60
# Triggers come as fast as the smoke asks for them.
SYSTEM_CONFIG = {"local_gc_min_interval_s": 0, "global_gc_min_interval_s": 0}
# 2.60 does not profile by default.
VARIABLES = {
    "RAY_DASHBOARD_ENABLE_PROFILING": "1",
    "MANTARAY_LOG_RETENTION_AGE_S": "86400",
}
STATES_THAT_SERVE = ("active", "native")


@dataclass(frozen=True)
class Work:
    """What one patch was used for.

    Attributes:
        did: the work, in words.
        figure: what the two figures count, with the unit.
        stock: the figure on stock Ray; None if stock Ray has no such thing.
        ours: the figure on Mantaray.
        ok: whether our arm did what the patch is for.
    """

    did: str
    figure: str
    stock: float | str | None
    ours: float | str | None
    ok: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one patch on one Ray.

    Attributes:
        state: as `mantaray doctor` names it.
        why: its reason.
        processes: in how many processes of the cluster the patch was attached.
        work: what it was used for.
        ok: the state serves, no process refused the patch, and the work was done.
    """

    state: str
    why: str
    processes: int
    work: Work
    ok: bool

    def as_json(self) -> dict[str, Any]:
        """Return it for the file of results."""
        return asdict(self)


@dataclass(frozen=True)
class Arm:
    """What one cluster has shown.

    Attributes:
        driver: what programs/smoke.py printed.
        jobs: what programs/logs_jobs.py printed.
        whole_log: (whether it arrived unchanged, MB by which the servers grew).
        traceback: (HTTP status of a profiling link by address, whether it shows the right process).
        page: the dashboard's page.
        carried: how many nodes stream through the head's relay; None without one.
        version: what `ray --version` prints.
        grace_period_s: Ray's spilling knob of that name in the head's raylet; None where nobody set it.
        has_old_log: whether a dead worker's log that is past the limit is still there at the end.
        doctor: (exit status of `mantaray doctor --cluster`, nodes that it lists); None without Mantaray.
        notices: how an owner ended that had two notices about one borrower.
        released: how a borrower ended in which an object with references in it went out of scope twice.
        reports: what each process says about its patches: name -> (state, reason).
    """

    driver: Any
    jobs: Any
    whole_log: tuple[bool, float]
    traceback: tuple[int, bool]
    page: str
    carried: int | None
    version: str
    grace_period_s: str | None
    has_old_log: bool
    doctor: tuple[int, int] | None
    notices: Ending
    released: Ending
    reports: list[dict[str, tuple[str, str]]]


def run_smoke(ours: RayEnv, stock: RayEnv, *, with_deaths: bool) -> dict[str, Outcome]:
    """Do the work on both arms; return what became of each patch of `mantaray doctor`.

    Args:
        ours: an environment with a Ray and Mantaray.
        stock: the same Ray, without Mantaray.
        with_deaths: whether to see stock Ray die of repeated notices, too. A node whose driver died takes
            long to end.
    """
    states = _states(ours)
    seen = _run_arm(ours, True, _end_twice(ours, guarded=True))
    # The programs are built on Mantaray, so stock Ray is ours without the patches.
    died = _end_twice(ours, guarded=False) if with_deaths else (NOT_TRIED, NOT_TRIED)
    beside = _run_arm(stock, False, died)
    assert seen.driver["mantaray"], f"{ours.root} has no Mantaray"
    assert not beside.driver["mantaray"], f"Mantaray can be imported in {stock.root}"
    return {name: judge(name, state, seen, beside) for name, state in states.items()}


def _end_twice(env: RayEnv, guarded: bool) -> tuple[Ending, Ending]:
    return deliver_notices_twice(env, guarded), release_twice(env, guarded)


def _states(env: RayEnv) -> dict[str, tuple[str, str]]:
    done = subprocess.run(
        [str(env.python), "-m", "mantaray.cli", "doctor", "--json"],
        env=env.environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    told = json.loads(done.stdout)
    assert told["problem"] is None, told["problem"]
    return {patch["name"]: (patch["state"], patch["why"]) for patch in told["patches"]}


@contextmanager
def _started(env: RayEnv, has_relay: bool) -> Iterator[tuple[Cluster, RelayAdmin | None]]:
    """Start the cluster of one arm."""
    variables, admin, through = dict(VARIABLES), None, None
    if has_relay:
        relay, admin, through = heads_relay()
        variables.update(relay)
    cluster = Cluster(
        env,
        dashboard=True,
        system_config=SYSTEM_CONFIG,
        variables=variables,
    )
    cluster.variables["MANTARAY_REPORT_DIR"] = str(cluster.root / "reports")
    with cluster:
        cluster.add_node(num_cpus=1, own_pids=True, on_heads_address=True)
        for name in BEHIND_RELAY if has_relay else ():
            cluster.add_node(num_cpus=1, resources={name: 1}, through=through)
        yield cluster, admin


def _run_arm(env: RayEnv, has_relay: bool, endings: tuple[Ending, Ending]) -> Arm:
    with _started(env, has_relay) as (cluster, admin):
        old_log = leave_old_log(cluster)
        carried = None
        if admin is not None:
            wait_until(lambda: admin.carried() == len(BEHIND_RELAY))
            carried = admin.carried()
        with urllib.request.urlopen(cluster.dashboard_url, timeout=120) as reply:
            page = reply.read().decode(errors="replace")
        whole_log = _fetch_whole_log(cluster)
        jobs = cluster.run_program(
            PROGRAMS / "logs_jobs.py",
            [cluster.dashboard_url, str(raylet_of(cluster)), cluster.root, str(LONG_LINE_MB)],
        )
        # Before programs end whose nodes the doctor would still count.
        doctor = ask_doctor(cluster) if has_relay else None
        driver = cluster.run_program(
            PROGRAMS / "smoke.py",
            [cluster.spill_directories[0], ",".join(BEHIND_RELAY if has_relay else ())],
        )
        # The last, because its workers are busy from then on.
        profiled = Profiled(cluster, *start_workers(cluster, "first", "second"))
        second = profiled.second
        answer = profiled.get("worker/traceback", {"pid": second.pid, "ip": profiled.ip})
        shown = second.frame in answer.text and profiled.first.frame not in answer.text
        return Arm(
            driver=driver,
            jobs=jobs,
            whole_log=whole_log,
            traceback=(answer.status, shown),
            page=page,
            carried=carried,
            version=_ray_version(env),
            grace_period_s=environment_of(raylet_of(cluster)).get(GRACE_PERIOD),
            # Its limits are looked at every 30 s; all of the above took longer than that, or nearly.
            has_old_log=not wait_until(lambda: not old_log.exists(), 40.0 if has_relay else 0.0),
            doctor=doctor,
            notices=endings[0],
            released=endings[1],
            reports=_reports(cluster.root / "reports"),
        )


def _fetch_whole_log(cluster: Cluster) -> tuple[bool, float]:
    """Fetch a long log of a job; return whether it is right, and by how many MB a server grew."""
    job, log = run_job(cluster)
    text = "".join(f"line {number:>12}\n" for number in range(1_000_000 * LOG_MB // 18))
    log.write_text(text)
    servers = [*cluster.processes("dashboard"), *cluster.processes("dashboard_agent")]
    before = [(server, watch_memory(server)) for server in servers]
    url = f"{cluster.dashboard_url}/api/jobs/{job}/logs"
    with urllib.request.urlopen(url, timeout=240) as reply:
        told = json.loads(reply.read())["logs"]
    grown = max(memory_mb(server, "VmHWM") - held for server, held in before)
    return told == text, round(grown, 1)


def _ray_version(env: RayEnv) -> str:
    done = subprocess.run(
        [str(env.bin("ray")), "--version"],
        env=env.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


def _reports(directory: Path) -> list[dict[str, tuple[str, str]]]:
    found = []
    for path in sorted(directory.glob("*.json")):
        patches = json.loads(path.read_text())["patches"]
        found.append({name: (each["state"], each["why"]) for name, each in patches.items()})
    return found


def judge(name: str, state: tuple[str, str], ours: Arm, stock: Arm) -> Outcome:
    """Return what became of one patch.

    Args:
        name: of the patch.
        state: what `mantaray doctor` says: the state and its reason.
        ours: what the cluster with Mantaray has shown.
        stock: what the other one has shown.
    """
    states = Counter(each[name][0] for each in ours.reports if name in each)
    refusals = [each[name][1] for each in ours.reports if each.get(name, ("",))[0] == "refused"]
    work = WORKS[name](ours, stock) if name in WORKS else _no_work(states["active"])
    is_native = state[0] == "native"
    # `version` is for commands, and `ray --version` is over before it could report.
    attached = is_native or states["active"] > 0 or name == "version"
    return Outcome(
        state="refused" if refusals else state[0],
        why=refusals[0] if refusals else state[1],
        processes=states["active"],
        work=work,
        ok=state[0] in STATES_THAT_SERVE and not refusals and attached and work.ok,
    )


def _no_work(processes: int) -> Work:
    return Work("was attached; the smoke has no work for it", "processes", None, processes, True)


def _spill(ours: Arm, stock: Arm) -> Work:
    seen = ours.driver["spill"]
    return Work(
        did="240 objects of 1 MB spilled, one in twenty kept, those read back",
        figure="bytes on disk for each live byte",
        stock=stock.driver["spill"]["disk_over_live"],
        ours=seen["disk_over_live"],
        ok=seen["peak_bytes"] > 100_000_000
        and seen["disk_over_live"] <= 1.05
        and seen["intact"]
        and seen["left_bytes"] == 0,
    )


def _direct(ours: Arm, stock: Arm) -> Work:
    from_files = ours.driver["spill"]["from_files"]
    return Work(
        did="the driver got 12 objects, most of them spilled",
        figure="objects read from their files",
        stock=stock.driver["spill"]["from_files"],
        ours=from_files,
        ok=from_files > 0 and ours.driver["spill"]["intact"],
    )


def _router(ours: Arm, stock: Arm) -> Work:
    seen = ours.driver["serve"]
    return Work(
        did="40 requests of 50 ms at once for a replica with one slot",
        figure="time over the ideal",
        stock=stock.driver["serve"]["time_over_ideal"],
        ours=seen["time_over_ideal"],
        ok=seen["answered"] and seen["routers"] > 0,
    )


def _slots(ours: Arm, stock: Arm) -> Work:
    seen = ours.driver["serve"]
    return Work(
        did="the same burst, in the order in which the replica served it",
        figure="served in the order of their arrival",
        stock=_yes(stock.driver["serve"]["in_order"]),
        ours=_yes(seen["in_order"]),
        ok=seen["in_order"],
    )


def _gc(ours: Arm, stock: Arm) -> Work:
    seen = ours.driver["gc"]
    return Work(
        did="3 triggers for an actor with 1.5 million containers, garbage released each time",
        figure="longest stall, median trigger, ms",
        stock=stock.driver["gc"]["longest_stall_ms"]
        if stock.driver["gc"]["released"]
        else "garbage stayed",
        ours=seen["longest_stall_ms"],
        ok=seen["released"] and seen["collections"] > 0,
    )


def _logs(ours: Arm, stock: Arm) -> Work:
    endless = ours.jobs["jobs"]["endless"]
    bars = ours.jobs["jobs"]["bars"]
    return Work(
        did=f"the end of the log of a failed job that printed {LONG_LINE_MB} MB in one line",
        figure="most memory of an agent or job supervisor, MB",
        stock=stock.jobs["memory_mb"],
        ours=ours.jobs["memory_mb"],
        ok="FAILED" in endless["status"]
        and 20_000 <= endless["chars"] < 20_500
        and bars["end"].endswith("start\n19999 of 20000")
        and ours.jobs["memory_mb"] < 500,
    )


def _joblogs(ours: Arm, stock: Arm) -> Work:
    is_right, grown_mb = ours.whole_log
    return Work(
        did=f"the whole log of a job, {LOG_MB} MB, over the dashboard",
        figure="growth of the server that grew most, MB",
        stock=stock.whole_log[1],
        ours=grown_mb,
        ok=is_right and grown_mb < LOG_MB,
    )


def _profiling(ours: Arm, stock: Arm) -> Work:
    status, shown = ours.traceback
    return Work(
        did="a traceback by the address that two nodes share, of a process on the second",
        figure="HTTP status",
        stock=stock.traceback[0],
        ours=status,
        ok=status == 200 and shown,
    )


def _pagelinks(ours: Arm, stock: Arm) -> Work:
    has_ours = "mantaray" in ours.page
    # Where Ray's page builds the links itself, ours leaves it as it is.
    is_stock = ours.page == stock.page
    return Work(
        did="fetched the dashboard's page",
        figure="who builds its profiling links by node id",
        stock="Ray's page, if anything",
        ours="Mantaray's script" if has_ours else "Ray's page",
        ok=has_ours or is_stock,
    )


def _relay(ours: Arm, stock: Arm) -> Work:
    return Work(
        did="two raylets joined through the head's relay and ran a task each",
        figure="raylets on one stream to the GCS",
        stock=None,
        ours=ours.carried,
        ok=ours.carried == ours.driver["nodes"] == len(BEHIND_RELAY),
    )


def _refs(ours: Arm, stock: Arm) -> Work:
    seen = ours.driver["finalize"]
    return Work(
        did="let go of a borrowed object that has a finalizer, and shut down with another",
        figure="calls of the finalizer",
        stock=None,
        ours=seen["calls"],
        ok=not seen["early"]
        and seen["calls"] == 1
        and ours.driver["at_shutdown"] == ["at shutdown"],
    )


def _version(ours: Arm, stock: Arm) -> Work:
    return Work(
        did="ran `ray --version`",
        figure="what it prints",
        stock=stock.version,
        ours=ours.version,
        ok=ours.version == stock.version,
    )


def _knobs(ours: Arm, stock: Arm) -> Work:
    return Work(
        did="started a head on which nobody had set Ray's spilling knobs",
        figure="grace period of a full store in the raylet's environment, s",
        stock=stock.grace_period_s or "Ray's own",
        ours=ours.grace_period_s,
        # 1 where the disk is small for the store.
        ok=ours.grace_period_s in ("0", "1") and stock.grace_period_s is None,
    )


def _retention(ours: Arm, stock: Arm) -> Work:
    return Work(
        did="left the log of a dead worker that had not changed for two days, with a limit of one",
        figure="whether it is still there",
        stock=_yes(stock.has_old_log),
        ours=_yes(ours.has_old_log),
        ok=stock.has_old_log and not ours.has_old_log,
    )


def _patch_states(ours: Arm, stock: Arm) -> Work:
    nodes = 2 + len(BEHIND_RELAY)
    return Work(
        did="`mantaray doctor --cluster`",
        figure="nodes that it lists, all alike",
        stock=None,
        ours=ours.doctor[1] if ours.doctor else None,
        ok=ours.doctor == (0, nodes),
    )


def _refcount(ours: Arm, stock: Arm) -> Work:
    return Work(
        did="delivered each notice about a borrower twice, in three orders",
        figure="how the owner ended",
        stock=stock.notices.end,
        ours=ours.notices.end,
        ok=ours.notices.lived and ours.notices.counts_are_right,
    )


def _nesting(ours: Arm, stock: Arm) -> Work:
    return Work(
        did="let an object with references in it go out of scope twice in a borrower",
        figure="how the borrower ended",
        stock=stock.released.end,
        ours=ours.released.end,
        ok=ours.released.lived and ours.released.counts_are_right,
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


WORKS: Mapping[str, Callable[[Arm, Arm], Work]] = {
    "direct": _direct,
    "gc": _gc,
    "joblogs": _joblogs,
    "knobs": _knobs,
    "logs": _logs,
    "nesting": _nesting,
    "pagelinks": _pagelinks,
    "profiling": _profiling,
    "refcount": _refcount,
    "refs": _refs,
    "relay": _relay,
    "retention": _retention,
    "router": _router,
    "slots": _slots,
    "spill": _spill,
    "states": _patch_states,
    "version": _version,
}
