"""When the guard of Ray's reference counter is refused, and that it then leaves everything alone."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import mantaray._native
import pytest
from mantaray.overlay import Installation
from mantaray.refs import guard


def library(path: str) -> ModuleType:
    module = ModuleType("ray._raylet")
    module.__file__ = path
    return module


def test_library_that_is_not_loaded_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"/nowhere/_raylet\.so is not loaded in this process"):
        guard.attach(library("/nowhere/_raylet.so"), Installation())
    assert not guard.counts()["attached"]


def test_library_without_ray_s_counter_is_refused() -> None:
    with pytest.raises(RuntimeError, match="does not define _ZN3ray4core16ReferenceCounter"):
        guard.attach(library(mantaray._native.__file__), Installation())
    assert not guard.counts()["attached"]


def test_process_in_which_ray_runs_already_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ModuleType("ray._private.worker")
    worker.global_worker = SimpleNamespace(core_worker=object())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray._private.worker", worker)
    with pytest.raises(RuntimeError, match=r"attach it before ray\.init\(\)"):
        guard.attach(library(mantaray._native.__file__), Installation())
