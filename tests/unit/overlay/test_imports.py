"""Functions that are called when a module has been imported, and the module they see."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from mantaray.overlay.imports import when_imported


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that is not imported yet."""
    name = f"waited_for_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("VALUE = 1\n\ndef start():\n    return VALUE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_all_that_wait_are_called_once_in_order_before_the_importer_goes_on(name: str) -> None:
    called: list[tuple[int, ModuleType]] = []
    when_imported(name, lambda module: called.append((1, module)))
    when_imported(name, lambda module: called.append((2, module)))
    module = importlib.import_module(name)
    assert called == [(1, module), (2, module)]
    importlib.reload(module)
    assert len(called) == 2


def test_module_is_as_if_nobody_had_waited(name: str) -> None:
    plain = importlib.import_module(name)
    loader = type(plain.__loader__)
    del sys.modules[name]
    when_imported(name, lambda module: None)
    module = importlib.import_module(name)
    assert module.__spec__ is not None
    assert type(module.__loader__) is type(module.__spec__.loader) is loader
    assert "return VALUE" in inspect.getsource(module.start)


def test_import_that_fails_calls_nobody_and_the_next_one_does(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.py"
    good = file.read_text()
    file.write_text("1 / 0\n")
    called: list[ModuleType] = []
    when_imported(name, called.append)
    with pytest.raises(ZeroDivisionError):
        importlib.import_module(name)
    assert (called, name in sys.modules) == ([], False)
    # Of another length, because a cached file is told by its size and time.
    file.write_text(good)
    importlib.invalidate_caches()
    assert importlib.import_module(name).start() == 1
    assert len(called) == 1


def test_asking_for_a_spec_imports_nothing_and_calls_nobody(name: str) -> None:
    called: list[ModuleType] = []
    when_imported(name, called.append)
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    # What `runpy` asks for.
    assert spec.loader.get_code(name) is not None  # type: ignore[attr-defined]
    assert (called, name in sys.modules) == ([], False)


def test_module_that_does_not_exist_stays_missing() -> None:
    when_imported("no_module_of_that_name_at_all", lambda module: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_module_of_that_name_at_all")
