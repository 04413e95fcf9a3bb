"""The reference counter through its binding: the protocol between two processes, and its errors."""

from __future__ import annotations

import pytest
from mantaray.native import (
    Address,
    LineageReconstructionEligibility,
    ObjectReferenceCount,
    ReferenceCounter,
    ReferenceCountError,
    RefRemovedMessage,
    RefRemovedSubscription,
    UnknownObjectError,
)


def object_id(number: int) -> bytes:
    return number.to_bytes(28, "big")


X, Y, Z = object_id(1), object_id(2), object_id(3)


class Process:
    """A reference counter, and what it sent and said."""

    def __init__(self, number: int, *, lineage_pinning: bool = False) -> None:
        self.address = Address(number.to_bytes(28, "big"))
        self.published: list[tuple[Address, RefRemovedMessage]] = []
        self.subscribed: list[tuple[Address, RefRemovedSubscription]] = []
        self.log: list[str] = []
        self.counter = ReferenceCounter(
            self.address,
            lineage_pinning=lineage_pinning,
            publish_ref_removed=lambda owner, message: self.published.append((owner, message)),
            subscribe_ref_removed=lambda borrower, sub: self.subscribed.append((borrower, sub)),
            log=self.log.append,
        )

    def own(self, name: bytes, **arguments: object) -> None:
        self.counter.add_owned_object(name, add_local_ref=True, **arguments)  # type: ignore[arg-type]


@pytest.fixture
def owner() -> Process:
    return Process(10)


@pytest.fixture
def borrower() -> Process:
    return Process(11)


def lend(owner: Process, borrower: Process) -> None:
    """The owner of X calls a task of the borrower with it, and the borrower keeps it."""
    owner.counter.update_submitted_task_references([], [X])
    borrower.counter.add_local_reference(X)
    borrower.counter.add_borrowed_object(X, None, owner.address)
    borrower.counter.add_local_reference(X)
    table, deleted = borrower.counter.pop_and_clear_local_borrowers([X])
    assert [entry.has_local_ref for entry in table] == [True]
    assert deleted == []
    owner.counter.update_finished_task_references([], [X], True, borrower.address, table)


def test_object_that_nobody_borrows_goes_with_its_last_reference(owner: Process) -> None:
    gone: list[bytes] = []
    owner.own(X)
    assert owner.counter.add_object_out_of_scope_or_freed_callback(X, gone.append)
    assert owner.counter.get_all_reference_counts() == {X: (1, 0)}
    assert owner.counter.remove_local_reference(X) == [X]
    assert gone == [X]
    assert len(owner.counter) == 0
    assert not owner.counter.add_object_out_of_scope_or_freed_callback(X, gone.append)


def test_borrowed_object_waits_for_the_borrowers_answer(owner: Process, borrower: Process) -> None:
    owner.own(X)
    lend(owner, borrower)
    [(address, question)] = owner.subscribed
    assert address == borrower.address
    assert owner.counter.remove_local_reference(X) == []
    borrower.counter.subscribe_ref_removed(question)
    assert borrower.published == []
    borrower.counter.remove_local_reference(X)
    [(to, answer)] = borrower.published
    assert to == owner.address
    assert owner.counter.has_reference(X)
    owner.counter.handle_ref_removed(borrower.address, answer)
    assert len(owner.counter) == 0
    assert len(borrower.counter) == 0


def test_upstream_race_second_clean_up_notice_of_a_borrower_that_answered_and_died(
    owner: Process, borrower: Process
) -> None:
    """The crash that this subsystem began with: both notices for one borrower, in either order."""
    for failure_first in (False, True):
        owner.own(X)
        lend(owner, borrower)
        owner.counter.remove_local_reference(X)
        borrower.counter.subscribe_ref_removed(owner.subscribed[-1][1])
        borrower.counter.remove_local_reference(X)
        answer = borrower.published[-1][1]
        notices = [
            lambda answer=answer: owner.counter.handle_ref_removed(borrower.address, answer),
            lambda: owner.counter.handle_publisher_failed(borrower.address, X),
        ]
        if failure_first:
            notices.reverse()
        for notice in (*notices, *notices):
            notice()
        assert len(owner.counter) == 0
    stats = owner.counter.get_stats()
    assert stats["repeated_ref_removed"] == 3
    assert stats["repeated_publisher_failed"] == 3
    assert stats["broken_invariants"] == 0
    [line] = owner.log
    assert X.hex() in line
    assert borrower.address.worker_id.hex() in line
    assert 'first came "reference removed"' in line


def test_late_message_still_names_new_borrowers(owner: Process, borrower: Process) -> None:
    third = Address(object_id(12))
    owner.own(X)
    lend(owner, borrower)
    owner.counter.handle_publisher_failed(borrower.address, X)
    number = owner.subscribed[0][1].number
    table = [ObjectReferenceCount(X, owner.address, borrowers=[third])]
    owner.counter.handle_ref_removed(borrower.address, RefRemovedMessage(X, [number], table))
    assert owner.subscribed[-1][0] == third
    assert owner.counter.remove_local_reference(X) == []


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda counter: counter.remove_local_reference(Z), UnknownObjectError),
        (lambda counter: counter.update_resubmitted_task_references([X, Z]), UnknownObjectError),
        (
            lambda counter: counter.update_finished_task_references([], [X], True, Address(Y)),
            ReferenceCountError,
        ),
        (lambda counter: counter.pop_and_clear_local_borrowers([X, X]), ReferenceCountError),
        (lambda counter: counter.add_owned_object(X), ReferenceCountError),
        (lambda counter: counter.add_borrower_address(Z, Address(Y)), UnknownObjectError),
    ],
)
def test_misuse_names_operation_and_object_and_changes_nothing(operation, error) -> None:
    process = Process(1)
    process.own(X)
    before = process.counter.get_all_reference_counts()
    with pytest.raises(error) as caught:
        operation(process.counter)
    assert operation.__code__.co_names[0].replace("_", "") in str(caught.value).lower()
    assert any(name.hex() in str(caught.value) for name in (X, Z))
    assert process.counter.get_all_reference_counts() == before


def test_bad_id_is_a_value_error(owner: Process) -> None:
    with pytest.raises(ValueError, match="28 bytes"):
        owner.counter.add_local_reference(b"short")


def test_exception_in_a_callback_is_reported_and_the_operation_is_done(
    owner: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: unraisable.append(args.exc_value))

    def fails(name: bytes) -> None:
        raise OSError("no")

    called: list[bytes] = []
    owner.own(X)
    owner.counter.add_object_out_of_scope_or_freed_callback(X, fails)
    owner.counter.add_object_out_of_scope_or_freed_callback(X, called.append)
    assert owner.counter.remove_local_reference(X) == [X]
    assert called == [X]
    assert [type(error) for error in unraisable] == [OSError]


def test_lineage_callback_that_answers_nonsense_is_reported_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: unraisable.append(args.exc_value))
    for nonsense in ("no pair", ([b"too short"], 1)):
        process = Process(1, lineage_pinning=True)
        process.counter.set_release_lineage_callback(lambda _, answer=nonsense: answer)
        process.own(X)
        assert process.counter.remove_local_reference(X) == [X]
    assert [type(error) for error in unraisable] == [TypeError, TypeError]


def test_callback_may_use_the_counter(owner: Process) -> None:
    owner.own(Y)
    owner.own(X)
    owner.counter.add_object_out_of_scope_or_freed_callback(
        X, lambda _: owner.counter.remove_local_reference(Y)
    )
    owner.counter.remove_local_reference(X)
    assert len(owner.counter) == 0


def test_lineage_is_kept_while_a_return_value_may_be_made_again() -> None:
    process = Process(1, lineage_pinning=True)
    process.counter.set_release_lineage_callback(lambda name: ([X] if name == Y else [], 7))
    process.own(X)
    process.own(Y)
    process.counter.update_submitted_task_references([Y], [X])
    assert process.counter.is_object_pending_creation(Y)
    process.counter.update_finished_task_references([Y], [X], False, Address(Z))
    assert process.counter.remove_local_reference(X) == [X]
    assert process.counter.has_reference(X)
    process.counter.remove_local_reference(Y)
    assert len(process.counter) == 0
    eligibility = process.counter.get_lineage_reconstruction_eligibility(X)
    assert eligibility == LineageReconstructionEligibility.INELIGIBLE_REF_NOT_FOUND


def test_locations_and_spilled_urls(owner: Process) -> None:
    node = object_id(99)
    owner.own(X, object_size_bytes=5, pinned_at_node_id=node)
    assert owner.counter.get_locality_data(X) == (5, [node])
    assert owner.counter.is_plasma_object_pinned_or_spilled(X) == (True, node, False)
    assert owner.counter.handle_object_spilled(X, "file:///x", node)
    assert owner.counter.fill_object_information(X).spilled_url == "file:///x"
    owner.counter.reset_objects_on_removed_node(node)
    assert owner.counter.flush_objects_to_recover() == [X]
    assert owner.counter.get_object_locations(X) == []
    assert owner.counter.get_object_locations(Z) is None
