"""SIGKILL under load: every asker hears of an answer or an error, and the memory has each exchange once.

Real Serve, store and embedder. The bounded test kills each kind of process once; the slow one goes on
for minutes, with several at a time.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import psutil
import pytest
import ray
from served import Served

from faults.asking import Account, ask_many
from knowledge.memory.actor import find_memory
from knowledge.memory.manager import exchange_id
from knowledge.types import Scope

SERVICE = "ServeReplica:knowledge:KnowledgeService"
EMBEDDER = "ServeReplica:knowledge:Embedder"
BACK_TIMEOUT_S = 90.0


def replicas(role: str) -> list[int]:
    """Return the ids of the processes of this run's Ray that are replicas of a deployment."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if role in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return sorted(found)


def memory_actors() -> list[int]:
    """Return the id of the process of the memory's actor."""
    return [int(ray.get(find_memory().describe.remote(), timeout=BACK_TIMEOUT_S)["pid"])]


def under_fire(
    running: Served, shots: Callable[[], object], askers: int, each: int, prefix: str
) -> Account:
    """Ask with many askers, and call `shots` in a thread meanwhile; return the askers' account."""
    failed: list[BaseException] = []

    def fire() -> None:
        try:
            time.sleep(1.0)
            shots()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=fire)
    thread.start()
    account = asyncio.run(ask_many(running.url, askers, each, prefix))
    thread.join()
    assert not failed, failed
    return account


def check(running: Served, account: Account, askers: int, each: int) -> None:
    """See that nobody was left without a word, and that memory has each exchange exactly once."""
    assert (account.unheard, account.given_up) == ([], []), account.errors
    assert account.answers == askers * each
    with running.client() as client:
        for session, query_ids in account.answered.items():
            reply = client.get(f"/sessions/{session}")
            assert reply.status_code == 200, reply.text
            remembered = [one["record_id"] for one in reply.json()["exchanges"]]
            owed = [exchange_id(Scope("default", session), query_id) for query_id in query_ids]
            assert sorted(remembered) == sorted(owed)


def kill_one(find: Callable[[], list[int]]) -> int:
    """Kill a process, when there is one, and wait until it is gone; return its id."""
    deadline_s = time.monotonic() + BACK_TIMEOUT_S
    while not (found := find()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    victim = random.choice(found)
    os.kill(victim, signal.SIGKILL)
    while psutil.pid_exists(victim) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return victim


@pytest.mark.parametrize("role", [SERVICE, EMBEDDER])
def test_killed_replica_leaves_no_asker_without_a_word(running: Served, role: str) -> None:
    askers, each = 30, 2
    name = role.rsplit(":", 1)[-1].lower()
    before = replicas(role)
    assert before

    account = under_fire(
        running, lambda: kill_one(functools.partial(replicas, role)), askers, each, name
    )

    check(running, account, askers, each)
    assert set(replicas(role)) != set(before)


def test_killed_memory_actor_loses_and_doubles_no_exchange(running: Served) -> None:
    askers, each = 30, 2
    before = memory_actors()

    account = under_fire(running, lambda: kill_one(memory_actors), askers, each, "memory")

    check(running, account, askers, each)
    assert memory_actors() != before


@pytest.mark.slow
def test_everything_is_killed_again_and_again(running: Served) -> None:
    askers, each = 100, 10
    randomly = random.Random(20260101)

    def shots() -> None:
        for _ in range(12):
            role = randomly.choice((SERVICE, EMBEDDER, "memory"))
            kill_one(memory_actors if role == "memory" else functools.partial(replicas, role))
            time.sleep(randomly.uniform(2.0, 8.0))

    account = under_fire(running, shots, askers, each, "again")

    check(running, account, askers, each)
