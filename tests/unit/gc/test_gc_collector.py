"""The collector's decisions on a model of Python's heap, with a clock that only collections advance."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mantaray.gc.collector import Collector
from mantaray.gc.heap import PythonHeap
from mantaray.gc.model import Collection, Kind, Policy

_PAUSE_PER_OBJECT_S = 100e-9
_BLOCKS_PER_OBJECT = 3


class ModelHeap:
    """Generations of live objects and garbage; garbage may hold something of the store.

    The collector's probe is real: it goes where everything new goes, and its reference is cut when it is
    collected.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.live = [0, 0, 0]
        self.garbage = [0, 0, 0]
        self.frozen_live = 0
        self.frozen_garbage = 0
        self.users_frozen = 0
        self.user_has_frozen = False
        self.users_were_unfrozen = False
        self.enabled = True
        self.busy = False
        self.fails = False
        self.counts = [0, 0, 0]
        self.still_held = 0
        self.referred = 0
        self.idle = False
        self.rss = 100_000_000
        self.search_is_possible: bool | None = True
        self.search_refused = False
        self.search_fails = False
        self.fork_s = 0.01
        self.search_s = 2.0
        self.searching_until = 0.0
        self.snapshot = 0
        self.lists = 0
        self.room_s = 0.0
        self.memory_is_short = False
        self.collapse_s = 0.5
        self.collapsed_at: list[float] = []
        self.during_collapse: Callable[[], None] = lambda: None

    # --- what the program does

    def grow(self, live: int = 0, garbage: int = 0) -> None:
        self.live[0] += live
        self.garbage[0] += garbage

    def grow_old(self, live: int = 0, garbage: int = 0) -> None:
        self.live[2] += live
        self.garbage[2] += garbage

    # --- Heap

    def collect(self, generation: int = 2) -> int:
        if self.busy:
            return 0
        if self.fails:
            raise RuntimeError("boom")
        looked = sum(self.live[: generation + 1]) + sum(self.garbage[: generation + 1])
        found = sum(self.garbage[: generation + 1])
        survivors = sum(self.live[: generation + 1])
        for each in range(generation + 1):
            self.live[each] = self.garbage[each] = 0
        self.live[min(generation + 1, 2)] += survivors
        self.now += looked * _PAUSE_PER_OBJECT_S
        self.counts[generation] += 1
        if not self.user_has_frozen:
            gc.collect(generation)  # The probe is an object of this very process.
        return found

    def freeze(self) -> None:
        self.frozen_live += sum(self.live)
        self.frozen_garbage += sum(self.garbage)
        self.live, self.garbage = [0, 0, 0], [0, 0, 0]

    def unfreeze(self) -> None:
        if self.users_frozen:
            self.users_were_unfrozen = True
        self.live[2] += self.frozen_live
        self.garbage[2] += self.frozen_garbage
        self.frozen_live = self.frozen_garbage = 0

    def freeze_by_user(self) -> None:
        # A program that has imported Ray has more objects than this.
        self.users_frozen += sum(self.live) + 10_000
        self.user_has_frozen = True
        self.freeze()

    def isenabled(self) -> bool:
        return self.enabled

    def get_freeze_count(self) -> int:
        return self.frozen_live + self.frozen_garbage + self.users_frozen

    def get_objects(self, generation: int | None = None) -> Any:
        chosen = range(3) if generation is None else [generation]
        self.lists += 1
        return range(sum(self.live[g] + self.garbage[g] for g in chosen))

    def get_stats(self) -> list[dict[str, int]]:
        return [{"collections": count} for count in self.counts]

    def count(self, generation: int, limit: int) -> int:
        return min(limit, self.live[generation] + self.garbage[generation])

    # --- Search: the child sees what was garbage when it was forked.

    @property
    def is_possible(self) -> bool | None:
        return self.search_is_possible

    def prepare(self) -> None:
        if self.search_is_possible is None:
            self.search_is_possible = True

    def has_room(self) -> bool:
        self.now += self.room_s
        return not self.memory_is_short

    def collapse_pages(self) -> None:
        self.collapsed_at.append(self.now)
        self.now += self.collapse_s
        self.during_collapse()

    def start(self) -> bool:
        if self.search_refused:
            return False
        self.now += self.fork_s
        self.searching_until = self.now + self.search_s
        self.snapshot = self.frozen_garbage
        return True

    def poll(self) -> bool | None:
        if self.now < self.searching_until:
            return None
        return not self.search_fails

    def bring(self, limit: int) -> int:
        moved = min(limit, self.snapshot, self.frozen_garbage)
        self.snapshot -= moved
        self.frozen_garbage -= moved
        self.garbage[0] += moved
        return moved

    def left(self) -> int:
        return min(self.snapshot, self.frozen_garbage)

    def stop(self) -> None:
        self.snapshot = 0

    # --- World

    def held(self) -> int:
        return self.referred + sum(self.garbage) + self.frozen_garbage

    def is_idle(self, for_s: float) -> bool:
        return self.idle

    def blocks(self) -> int:
        in_sight = sum(self.live) + sum(self.garbage)
        return _BLOCKS_PER_OBJECT * (in_sight + self.get_freeze_count())

    def rss_bytes(self) -> int:
        return self.rss


class Setup:
    """A collector on a model, and what it has run."""

    def __init__(
        self, policy: Policy | None = None, *, searches: bool = False, **options: Any
    ) -> None:
        self.heap = ModelHeap()
        self.done: list[tuple[float, Collection]] = []
        self.collector = Collector(
            self.heap,
            self.heap,
            policy or Policy(),
            lambda: self.heap.now,
            on_collection=lambda done: self.done.append((self.heap.now, done)),
            search=self.heap if searches else None,
            **options,
        )

    def ask(self, times: int = 1) -> list[Collection]:
        """Trigger and step; return the collections of that step."""
        before = len(self.done)
        for _ in range(times):
            self.collector.trigger()
        self.collector.step()
        return [done for _, done in self.done[before:]]

    def pass_time(self, seconds: float) -> list[Collection]:
        """Let time pass, with steps where the collector wants them."""
        before = len(self.done)
        end = self.heap.now + seconds
        while (wait := self.collector.step()) is not None and self.heap.now + wait <= end:
            self.heap.now += wait
        self.heap.now = max(end, self.heap.now)
        return [done for _, done in self.done[before:]]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Keep the objects of pytest out of sight: the model has the probes collected for real."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def large() -> Setup:
    """A process with three million containers, in the oldest generation, that holds references."""
    setup = Setup()
    setup.heap.grow_old(live=3_000_000)
    setup.heap.referred = 1_000
    return setup


def kinds(done: list[Collection]) -> list[tuple[Kind, str]]:
    return [(each.kind, each.why) for each in done]


def test_actor_handle_in_a_cycle_of_a_process_that_holds_no_object_is_released() -> None:
    setup = Setup()
    setup.heap.grow_old(live=50_000, garbage=1)
    assert kinds(setup.ask()) == [(Kind.FULL, "short")]
    assert setup.collector.counts.released == 1


def test_heap_built_before_the_first_trigger_costs_no_long_pause(large: Setup) -> None:
    large.heap.grow(live=500, garbage=10)
    (done,) = large.ask()
    assert done.kind is Kind.YOUNG
    assert done.released == 10
    assert done.pause_s < 0.001
    assert large.heap.frozen_live == 3_000_500


def test_next_young_collection_looks_at_what_is_new_alone(large: Setup) -> None:
    large.ask()
    for _ in range(10):
        large.heap.grow(live=1_000, garbage=7)
        (done,) = large.ask()
        assert (done.kind, done.released) == (Kind.YOUNG, 7)
        assert done.pause_s < 0.001
        large.heap.now += 10


def test_young_garbage_that_reached_the_oldest_generation_is_still_found(large: Setup) -> None:
    large.heap.grow(garbage=1)
    large.ask()
    large.heap.grow_old(garbage=20)
    (done,) = large.ask()
    assert done.released == 20


def test_many_triggers_at_once_are_one_collection(large: Setup) -> None:
    large.heap.grow(garbage=1)
    assert len(large.ask(times=50)) == 1
    assert large.collector.counts.coalesced == 49


def test_small_process_is_collected_in_full_at_once_as_on_stock() -> None:
    setup = Setup()
    setup.heap.grow_old(live=50_000, garbage=3)
    setup.heap.referred = 1
    (done,) = setup.ask()
    assert (done.kind, done.why, done.released) == (Kind.FULL, "short", 3)


def test_short_full_collections_keep_to_their_share_of_time() -> None:
    setup = Setup()
    setup.heap.grow_old(live=150_000)
    setup.heap.referred = 1
    for _ in range(1_000):
        setup.ask()
        setup.heap.now += 0.1
    assert setup.collector.counts.total_full_s <= 0.02 * setup.heap.now + 0.02
    assert setup.collector.counts.full > 10


def test_old_garbage_is_found_when_pressure_persists(large: Setup) -> None:
    large.heap.grow_old(garbage=100)
    assert kinds(large.ask()) == [(Kind.YOUNG, "trigger")]
    large.heap.now += 10
    done = large.ask()
    assert kinds(done) == [(Kind.YOUNG, "trigger"), (Kind.FULL, "pressure")]
    assert done[1].released == 100


def test_triggers_far_apart_are_no_pressure(large: Setup) -> None:
    for _ in range(3):
        assert kinds(large.ask()) == [(Kind.YOUNG, "trigger")]
        large.heap.now += 150


def test_full_collections_under_pressure_keep_to_their_share_of_time(large: Setup) -> None:
    for _ in range(600):
        large.ask()
        large.heap.now += 1
    fulls = [at for at, done in large.done if done.kind is Kind.FULL]
    assert len(fulls) > 10
    pause_s = large.collector.counts.longest_full_s
    assert min(b - a for a, b in itertools.pairwise(fulls)) >= pause_s / 0.02


def test_young_collections_that_free_something_put_the_full_one_off(large: Setup) -> None:
    for _ in range(60):
        large.heap.grow(live=100, garbage=5)
        assert all(done.kind is Kind.YOUNG for done in large.ask())
        large.heap.now += 1


def test_nothing_frozen_waits_for_ever(large: Setup) -> None:
    large.heap.grow_old(garbage=9)
    for _ in range(620):
        large.heap.grow(garbage=1)
        large.ask()
        large.heap.now += 1
    assert "age" in {done.why for _, done in large.done}
    assert large.heap.frozen_garbage == 0


def test_full_collection_runs_when_the_process_is_idle(large: Setup) -> None:
    large.heap.grow_old(garbage=100)
    large.ask()
    assert large.pass_time(5) == []
    large.heap.idle = True
    (done,) = large.pass_time(5)
    assert (done.kind, done.why, done.released) == (Kind.FULL, "idle", 100)
    assert large.collector.step() is None


def test_idle_process_is_not_collected_again_and_again(large: Setup) -> None:
    large.heap.idle = True
    for _ in range(100):
        large.ask()
        large.heap.now += 1
    assert large.collector.counts.total_full_s < 0.12 * large.heap.now


def test_process_that_grows_is_collected_in_full_without_a_trigger(large: Setup) -> None:
    large.heap.grow(garbage=1)
    large.ask()
    assert large.pass_time(20) == []
    large.heap.rss = 250_000_000
    assert kinds(large.pass_time(20)) == [(Kind.FULL, "memory")]


def test_limit_of_memory_brings_full_collections_within_their_share() -> None:
    setup = Setup(Policy(rss_limit_bytes=50_000_000))
    setup.heap.grow_old(live=3_000_000)
    setup.heap.referred = 1
    for _ in range(100):
        setup.heap.grow(garbage=1)
        setup.ask()
        setup.heap.now += 1
    assert 2 <= setup.collector.counts.full <= 8


def test_disabled_collector_answers_after_a_second_as_on_stock(large: Setup) -> None:
    large.heap.grow(garbage=4)
    large.heap.enabled = False
    large.collector.trigger()
    assert large.pass_time(0.9) == []
    (done,) = large.pass_time(0.3)
    assert done.released == 4


def test_collector_disabled_for_a_moment_only_delays_the_answer(large: Setup) -> None:
    large.heap.grow(garbage=4)
    large.heap.enabled = False
    large.collector.trigger()
    assert large.pass_time(0.2) == []
    large.heap.enabled = True
    (done,) = large.pass_time(0.2)
    assert done.released == 4


def test_heap_frozen_by_the_user_before_is_never_unfrozen() -> None:
    setup = Setup()
    setup.heap.grow_old(live=1_000_000)
    setup.heap.freeze_by_user()
    setup.heap.referred = 1
    for _ in range(50):
        setup.heap.grow(live=10, garbage=2)
        setup.ask()
        setup.heap.now += 10
    assert not setup.heap.users_were_unfrozen
    assert not setup.collector.freezes
    assert setup.collector.counts.released == 100


def test_heap_frozen_by_the_user_later_is_never_unfrozen(large: Setup) -> None:
    large.heap.grow(garbage=1)
    large.ask()
    large.heap.freeze_by_user()
    large.heap.idle = True
    for _ in range(50):
        large.heap.grow(live=10, garbage=2)
        large.ask()
        large.pass_time(10)
    assert not large.heap.users_were_unfrozen
    assert not large.collector.freezes
    assert large.collector.counts.released == 101


def test_freezing_goes_on_once_the_user_has_unfrozen_everything() -> None:
    setup = Setup()
    setup.heap.grow_old(live=1_000_000)
    setup.heap.freeze_by_user()
    setup.heap.referred = 1
    setup.ask()
    assert not setup.collector.freezes
    setup.heap.users_frozen, setup.heap.user_has_frozen = 0, False
    setup.heap.unfreeze()
    setup.heap.idle = True
    setup.pass_time(10)
    assert setup.collector.freezes
    assert setup.heap.frozen_live > 0


@pytest.fixture
def searched() -> Setup:
    """The same large process, whose heap can be searched."""
    setup = Setup(searches=True)
    setup.heap.grow_old(live=3_000_000)
    setup.heap.referred = 1_000
    return setup


def test_old_garbage_of_a_busy_process_is_found_without_a_full_collection(searched: Setup) -> None:
    searched.heap.grow_old(garbage=30_000)
    assert kinds(searched.ask()) == [(Kind.YOUNG, "trigger")]
    (done,) = searched.pass_time(5)
    assert (done.kind, done.why, done.released) == (Kind.SEARCH, "trigger", 30_000)
    assert done.pause_s <= searched.heap.fork_s + 1e-6
    assert searched.heap.frozen_garbage == 0


def test_triggers_that_free_nothing_bring_no_long_pause(searched: Setup) -> None:
    for _ in range(600):
        searched.ask()
        searched.pass_time(1)
    assert searched.collector.counts.full == 0
    assert max(done.pause_s for _, done in searched.done) <= searched.heap.fork_s + 1e-6


def test_pages_are_collapsed_before_each_search_and_after_it(searched: Setup) -> None:
    searched.ask()
    (done,) = searched.pass_time(30)
    before, after = searched.heap.collapsed_at
    assert done.kind is Kind.SEARCH
    assert after >= before + searched.heap.collapse_s + searched.heap.search_s


def test_heap_of_a_python_that_freezes_objects_when_it_starts_is_frozen_too(
    searched: Setup,
) -> None:
    """Python 3.12 freezes 375. They were taken for the program's: triggers brought full collections."""
    searched.heap.users_frozen = 375
    for _ in range(4):
        searched.heap.grow_old(garbage=1_000)
        searched.ask()
        searched.pass_time(60)
    assert searched.collector.counts.full == 0
    assert searched.collector.counts.searches == 4
    assert searched.heap.frozen_live == 3_000_000


def test_trigger_lists_no_large_heap_of_a_program_that_freezes_objects(searched: Setup) -> None:
    """A list of three million objects, made to see that they are too many, took 60 ms."""
    searched.heap.freeze_by_user()
    searched.heap.grow_old(live=3_000_000)
    searched.ask()
    assert not searched.collector.freezes
    assert searched.heap.lists == 0


def test_waiting_for_files_before_a_search_is_not_told_as_its_stall(searched: Setup) -> None:
    """Each file that is read gives up the GIL: beside a busy thread, a stall of 14 ms was told as 0.7 s."""
    searched.heap.room_s = 0.6
    searched.ask()
    (done,) = searched.pass_time(5)
    assert done.kind is Kind.SEARCH
    assert done.pause_s <= searched.heap.fork_s + 1e-6


def test_no_pages_are_collapsed_and_no_search_starts_if_memory_is_short(searched: Setup) -> None:
    searched.heap.memory_is_short = True
    searched.ask()
    searched.pass_time(30)
    assert searched.collector.counts.searches == 0
    assert searched.heap.collapsed_at == []


def test_pages_are_left_alone_if_the_setting_says_so() -> None:
    setup = Setup(Policy(collapses_pages=False), searches=True)
    setup.heap.grow_old(live=3_000_000)
    setup.ask()
    assert kinds(setup.pass_time(5)) == [(Kind.SEARCH, "trigger")]
    assert setup.heap.collapsed_at == []


def test_heap_is_still_guarded_while_pages_are_collapsed(searched: Setup) -> None:
    """That takes seconds. Meanwhile an automatic collection must not visit the whole heap."""
    searched.heap.grow_old(live=1_000_000)
    guarded: list[bool] = []

    def take_the_lock() -> None:
        guarded.append(searched.collector.at_work.acquire(blocking=False))
        if guarded[-1]:
            searched.collector.at_work.release()

    def collect_automatically() -> None:
        thread = threading.Thread(target=take_the_lock)
        thread.start()
        thread.join()

    searched.heap.during_collapse = collect_automatically
    searched.ask()
    assert guarded == [True]


def test_program_that_freezes_during_a_collapse_gets_no_search(searched: Setup) -> None:
    def freeze() -> None:
        searched.heap.freeze_by_user()
        searched.collector.give_way_to_user()

    searched.heap.during_collapse = freeze
    searched.ask()
    assert searched.collector.counts.searches == 0
    assert Kind.SEARCH not in {done.kind for done in searched.pass_time(30)}


def test_searches_keep_to_their_share_of_time(searched: Setup) -> None:
    for _ in range(600):
        searched.ask()
        searched.pass_time(1)
    assert 10 <= searched.collector.counts.searches <= 600 * 0.1 / searched.heap.search_s + 1


def test_garbage_that_comes_up_during_a_search_is_found_by_the_next(searched: Setup) -> None:
    searched.ask()
    searched.pass_time(0.5)
    searched.heap.frozen_garbage += 7
    searched.ask()
    searched.pass_time(60)
    assert searched.collector.counts.released == 7
    assert searched.collector.counts.searches == 2


def test_failed_search_leaves_the_work_to_full_collections(searched: Setup) -> None:
    searched.heap.search_fails = True
    searched.heap.grow_old(garbage=100)
    searched.ask()
    searched.heap.idle = True
    searched.pass_time(10)
    assert searched.collector.counts.failed_searches == 1
    assert searched.collector.counts.released == 100
    searched.heap.search_fails = False
    searched.heap.now += 600
    searched.ask()
    searched.pass_time(10)
    assert searched.collector.counts.searches == 1


def test_search_refused_for_want_of_memory_leaves_the_work_to_full_collections(
    searched: Setup,
) -> None:
    searched.heap.search_refused = True
    searched.heap.grow_old(garbage=100)
    searched.heap.idle = True
    searched.ask()
    searched.pass_time(10)
    assert searched.collector.counts.released == 100


def test_automatic_collection_of_a_large_heap_finds_it_frozen(searched: Setup) -> None:
    assert searched.collector.automatic_starts(is_explicit=False)
    assert searched.heap.frozen_live == 3_000_000
    # A few new objects are left to Python, whose collection of them is short.
    searched.heap.grow_old(live=1_000)
    assert not searched.collector.automatic_starts(is_explicit=False)
    assert searched.heap.live[2] == 1_000
    searched.heap.grow_old(live=100_000)
    searched.collector.automatic_starts(is_explicit=False)
    assert searched.heap.live[2] == 0


def test_heap_that_cannot_be_searched_is_left_to_python(searched: Setup) -> None:
    searched.heap.search_is_possible = False
    assert not searched.collector.automatic_starts(is_explicit=False)
    assert searched.heap.frozen_live == 0


def test_nothing_is_loaded_in_the_middle_of_an_allocation(searched: Setup) -> None:
    searched.heap.search_is_possible = None
    assert searched.collector.automatic_starts(is_explicit=False)
    assert searched.heap.search_is_possible is None
    searched.collector.step()
    assert searched.heap.search_is_possible is True


def test_automatic_collection_of_a_small_heap_is_left_to_python() -> None:
    setup = Setup(searches=True)
    setup.heap.grow_old(live=50_000)
    assert not setup.collector.automatic_starts(is_explicit=False)
    assert setup.heap.frozen_live == 0


def test_garbage_in_a_heap_frozen_without_a_trigger_is_found_within_minutes(
    searched: Setup,
) -> None:
    searched.collector.automatic_starts(is_explicit=False)
    searched.heap.frozen_garbage += 9
    searched.pass_time(70)
    assert searched.collector.counts.released == 9
    assert searched.collector.step() is None


def test_collection_by_the_program_sees_what_is_frozen(searched: Setup) -> None:
    searched.ask()
    searched.pass_time(10)
    searched.collector.automatic_starts(is_explicit=True)
    assert searched.heap.frozen_live == 0
    searched.collector.automatic_ends()
    assert searched.heap.frozen_live == 3_000_000


def test_program_that_freezes_is_given_way_to(searched: Setup) -> None:
    searched.ask()
    searched.collector.give_way_to_user()
    assert searched.heap.frozen_live == 0
    assert not searched.collector.freezes
    assert not searched.collector.automatic_starts(is_explicit=False)


def test_python_without_generations_freezes_nothing() -> None:
    setup = Setup(can_freeze=False)
    setup.heap.grow_old(live=3_000_000, garbage=4)
    setup.heap.referred = 1
    for _ in range(3):
        setup.ask()
        setup.heap.now += 10
    assert setup.heap.frozen_live == 0
    assert setup.collector.counts.released == 4


def test_collection_in_another_thread_only_delays_ours(large: Setup) -> None:
    large.heap.grow(garbage=4)
    large.heap.busy = True
    assert large.ask() == []
    assert large.collector.step() == pytest.approx(0.02)
    large.heap.busy = False
    large.collector.step()
    assert large.collector.counts.released == 4
    assert large.collector.freezes


def test_collection_that_raises_leaves_the_old_heap_frozen(large: Setup) -> None:
    large.heap.grow(garbage=1)
    large.ask()
    large.heap.fails = True
    large.heap.now += 10
    with pytest.raises(RuntimeError):
        large.ask()
    large.heap.fails = False
    large.heap.grow(live=100, garbage=1)
    (done,) = large.ask()
    assert done.kind is Kind.YOUNG
    assert done.pause_s < 0.001


def test_burst_of_new_objects_is_not_one_long_pause(large: Setup) -> None:
    large.heap.grow(garbage=1)
    large.ask()
    large.heap.grow(live=2_000_000)
    (done,) = large.ask()
    assert done.pause_s < 0.03
    large.heap.grow_old(live=2_000_000)
    large.heap.grow(garbage=6)
    (done,) = large.ask()
    assert done.pause_s < 0.03
    assert done.released == 6


def test_forked_child_starts_anew_and_keeps_what_is_frozen(large: Setup) -> None:
    large.ask()
    large.collector.trigger()
    large.collector.restart()
    assert large.collector.step() is None
    assert large.heap.frozen_live == 3_000_000
    large.heap.grow(garbage=3)
    assert large.ask()[0].released == 3


def test_thaw_puts_everything_back(large: Setup) -> None:
    large.ask()
    large.collector.thaw()
    assert large.heap.frozen_live == 0
    assert large.heap.live[2] == 3_000_000
    assert large.ask()[0].kind is Kind.YOUNG


def test_thaw_leaves_what_the_user_has_frozen(large: Setup) -> None:
    large.ask()
    large.heap.freeze_by_user()
    large.collector.thaw()
    assert not large.heap.users_were_unfrozen


def test_real_heap_is_handled_as_the_model_says() -> None:
    class World(ModelHeap):
        def held(self) -> int:
            return sum(reference() is not None for reference in self.watched)

        watched: list[weakref.ref[Any]] = []

    class Knot:
        def __init__(self) -> None:
            self.itself = self

    def waste(count: int) -> None:
        World.watched += [weakref.ref(Knot()) for _ in range(count)]

    world = World()
    gc.unfreeze()
    clock = iter(range(10_000))
    collector = Collector(PythonHeap(), world, Policy(short_pause_s=0), lambda: float(next(clock)))
    waste(5)
    collector.trigger()
    collector.step()
    try:
        # The limit of zero allows nothing but freezing: the pressure of two triggers does it.
        assert gc.get_freeze_count() > 0
        collector.trigger()
        collector.step()
        assert collector.counts.released == 5
        assert collector.counts.full == 1
    finally:
        collector.thaw()
    assert gc.get_freeze_count() == 0
    gc.freeze()


class Life(RuleBasedStateMachine):
    """Any program, any triggers: what must hold always."""

    def __init__(self) -> None:
        super().__init__()
        self.setup = Setup()
        self.heap = self.setup.heap
        self.heap.referred = 1

    @rule(live=st.integers(0, 2_000_000), garbage=st.integers(0, 50))
    def grow(self, live: int, garbage: int) -> None:
        self.heap.grow(live, garbage)

    @rule(live=st.integers(0, 2_000_000), garbage=st.integers(0, 50))
    def grow_old(self, live: int, garbage: int) -> None:
        self.heap.grow_old(live, garbage)

    @rule(times=st.integers(1, 3))
    def ask(self, times: int) -> None:
        self.setup.ask(times)

    @rule(seconds=st.floats(0.01, 60))
    def wait(self, seconds: float) -> None:
        self.setup.pass_time(seconds)

    @rule(idle=st.booleans(), enabled=st.booleans(), busy=st.booleans())
    def change(self, idle: bool, enabled: bool, busy: bool) -> None:
        self.heap.idle, self.heap.enabled, self.heap.busy = idle, enabled, busy

    @precondition(lambda self: not self.heap.user_has_frozen)
    @rule()
    def freeze(self) -> None:
        self.heap.freeze_by_user()

    @rule()
    def pressure_releases_everything_in_the_end(self) -> None:
        self.heap.enabled, self.heap.busy, self.heap.idle = True, False, False
        for _ in range(6):
            self.setup.ask()
            self.setup.pass_time(self.setup.collector.counts.longest_full_s / 0.02 + 1)
        if not self.heap.user_has_frozen:
            assert self.heap.held() == self.heap.referred

    @invariant()
    def users_heap_stays_frozen(self) -> None:
        assert not self.heap.users_were_unfrozen

    @invariant()
    def full_collections_keep_to_their_share(self) -> None:
        busy = [(at, d) for at, d in self.setup.done if d.kind is Kind.FULL]
        for (before, first), (at, second) in itertools.pairwise(busy):
            if second.why != "idle":
                assert at - second.pause_s - before >= first.pause_s / 0.02 - 1e-6

    @invariant()
    def triggers_are_all_answered(self) -> None:
        counts = self.setup.collector.counts
        assert counts.coalesced <= counts.triggers


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
