"""When the guard of Ray's reference counter is refused, and that it then leaves everything alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import mantaray._native
import pytest
from mantaray.overlay import Installation
from mantaray.refs import guard

Attach = Callable[[ModuleType, Installation], None]


def library(path: str) -> ModuleType:
    module = ModuleType("ray._raylet")
    module.__file__ = path
    return module


@pytest.mark.parametrize("attach", [guard.attach, guard.attach_nesting])
def test_library_that_is_not_loaded_is_refused(attach: Attach) -> None:
    with pytest.raises(RuntimeError, match=r"/nowhere/_raylet\.so is not loaded in this process"):
        attach(library("/nowhere/_raylet.so"), Installation())
    assert not guard.counts()["attached"]
    assert not guard.nesting_counts()["attached"]


@pytest.mark.parametrize("attach", [guard.attach, guard.attach_nesting])
def test_library_without_ray_s_counter_is_refused(attach: Attach) -> None:
    with pytest.raises(RuntimeError, match="does not define _ZN3ray4core16ReferenceCounter"):
        attach(library(mantaray._native.__file__), Installation())
    assert not guard.counts()["attached"]
    assert not guard.nesting_counts()["attached"]


@pytest.mark.parametrize("attach", [guard.attach, guard.attach_nesting])
def test_process_in_which_ray_runs_already_is_refused(
    monkeypatch: pytest.MonkeyPatch, attach: Attach
) -> None:
    worker = ModuleType("ray._private.worker")
    worker.global_worker = SimpleNamespace(core_worker=object())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray._private.worker", worker)
    with pytest.raises(RuntimeError, match=r"attach it before ray\.init\(\)"):
        attach(library(mantaray._native.__file__), Installation())
