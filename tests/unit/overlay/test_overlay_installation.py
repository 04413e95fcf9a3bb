"""What an `Installation` changes it can take back, to the identical objects."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest
from mantaray.overlay import Installation


class Base:
    def inherited(self) -> str:
        return "base"


class Child(Base):
    __slots__ = ("slot",)
    plain = 1


class Slotted:
    __slots__ = ("slot",)
    slot: int


def twice(wrapped, instance, args, kwargs):  # type: ignore[no-untyped-def]
    return wrapped(*args, **kwargs) * 2


def test_what_was_absent_is_absent_again() -> None:
    module = ModuleType("m")
    installation = Installation()
    installation.replace(module, "x", 1)
    assert module.x == 1
    assert installation.undo() == []
    assert not hasattr(module, "x")


def test_a_method_that_is_inherited_is_wrapped_in_the_child_alone() -> None:
    installation = Installation()
    installation.wrap(Child, "inherited", twice)
    assert (Child().inherited(), Base().inherited()) == ("basebase", "base")
    assert installation.undo() == []
    assert "inherited" not in vars(Child)
    assert Child().inherited() == "base"


def test_an_object_with_slots_is_restored() -> None:
    holder = Slotted()
    holder.slot = 1
    installation = Installation()
    installation.replace(holder, "slot", 2)
    assert installation.undo() == []
    assert holder.slot == 1


def test_changes_are_undone_last_first() -> None:
    holder, order = SimpleNamespace(x=0), []
    installation = Installation()
    installation.replace(holder, "x", 1)
    installation.on_undo(lambda: order.append(holder.x))
    installation.replace(holder, "x", 2)
    installation.on_undo(lambda: order.append(holder.x))
    assert installation.undo() == []
    assert (order, holder.x) == ([2, 1], 0)


def test_undone_twice_is_undone_once() -> None:
    calls: list[int] = []
    installation = Installation()
    installation.on_undo(lambda: calls.append(1))
    installation.undo()
    installation.undo()
    assert calls == [1]


def test_what_cannot_be_changed_raises_and_leaves_nothing_to_undo() -> None:
    installation = Installation()
    with pytest.raises(TypeError):
        installation.replace(int, "bit_length", None)
    with pytest.raises(AttributeError):
        installation.wrap(Child, "nothing", twice)
    assert installation.undo() == []


def test_every_problem_of_an_undo_is_told() -> None:
    holder = SimpleNamespace(x=0, y=0)
    installation = Installation()
    installation.replace(holder, "x", 1)
    installation.replace(holder, "y", 1)
    holder.x = 9
    problems = installation.undo()
    assert (holder.x, holder.y) == (9, 0)
    assert len(problems) == 1
    assert "was changed by someone else, it stays as it is" in problems[0]
