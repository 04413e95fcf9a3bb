"""Processes of one node are asked one after another, and one that hangs holds the others up a moment."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mantaray.refs import cluster


def take_all(nodes: list[str], fn: Any) -> list[Any]:
    """Take one turn for each process, given the node of each."""
    turns = cluster._Turns()
    places: dict[str, int] = {}
    with ThreadPoolExecutor(len(nodes)) as threads:
        taken = []
        for number, node in enumerate(nodes):
            place = places.get(node, 0)
            places[node] = place + 1
            taken.append(threads.submit(turns.take, node, place, lambda number=number: fn(number)))
        return [each.result() for each in taken]


def test_the_processes_of_a_node_do_not_answer_at_once() -> None:
    lock, running, most = threading.Lock(), [0], [0]

    def answer(number: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return number

    assert take_all(["a"] * 8, answer) == list(range(8))
    assert most == [1]


def test_the_processes_of_two_nodes_answer_side_by_side() -> None:
    both = threading.Barrier(2, timeout=60)
    take_all(["a", "b"], lambda number: both.wait())


def test_a_process_that_hangs_does_not_keep_the_next_from_its_turn() -> None:
    next_one = threading.Event()

    def answer(number: int) -> bool:
        if number == 0:
            return next_one.wait(timeout=60)
        next_one.set()
        return True

    assert take_all(["a", "a"], answer) == [True, True]
