"""Changing objects of Ray so that every change can be taken back.

Part of `mantaray.overlay`: an installer of a patch is handed an `Installation` and changes Ray
through it alone, which is what makes rolling back and uninstalling possible.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

Wrapper = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]

_ABSENT = object()


class Installation:
    """The changes that one installer has made to one module, last first when they are undone."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def replace(self, owner: object, name: str, value: object) -> None:
        """Set an attribute of a module, class or object.

        Args:
            owner: whose attribute it is.
            name: its name; it may be one that does not exist yet.
            value: what to put there.

        Raises:
            AttributeError, TypeError: the owner does not let itself be changed.
        """
        original = _own_attribute(owner, name)
        setattr(owner, name, value)

        def restore() -> None:
            if _own_attribute(owner, name) is not value:
                raise RuntimeError(
                    f"{_describe(owner)}.{name} was changed by someone else, it stays as it is"
                )
            if original is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

        self._undo.append(restore)

    def wrap(self, owner: object, name: str, wrapper: Wrapper) -> None:
        """Put a function around one that exists; methods of every kind work.

        Args:
            owner: the module or class whose function it is.
            name: the name of the function.
            wrapper: called as wrapper(wrapped, instance, args, kwargs) in its stead.

        Raises:
            AttributeError: there is no such function.
        """
        # The raw attribute: a classmethod read with getattr is bound already.
        original = inspect.getattr_static(owner, name)
        self.replace(owner, name, _wrapped(owner, original, wrapper))

    def on_undo(self, fn: Callable[[], None]) -> None:
        """Call `fn` when everything is taken back, before what was changed earlier."""
        self._undo.append(fn)

    def undo(self) -> list[str]:
        """Take back every change, the last first; return what could not be taken back, in words."""
        problems = []
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:
                problems.append(str(error) or type(error).__name__)
        return problems


def _wrapped(owner: object, original: Any, wrapper: Wrapper) -> object:
    """Return what stands in for a function, of the same kind: method, class method or static method."""
    if isinstance(original, classmethod):
        return classmethod(_around_method(original.__func__, wrapper))
    if isinstance(original, staticmethod):
        return staticmethod(_around_function(original.__func__, wrapper))
    if isinstance(owner, type):
        return _around_method(original, wrapper)
    return _around_function(original, wrapper)


def _around_function(original: Any, wrapper: Wrapper) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, None, args, kwargs)

    return call


def _around_method(original: Any, wrapper: Wrapper) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return wrapper(functools.partial(original, instance), instance, args, kwargs)

    return call


def _own_attribute(owner: object, name: str) -> object:
    """Return what the owner itself holds under a name, unbound, without what it inherits."""
    attributes: Mapping[str, object] | None = getattr(owner, "__dict__", None)
    if attributes is None:
        return getattr(owner, name, _ABSENT)
    return attributes.get(name, _ABSENT)


def _describe(owner: object) -> str:
    return str(getattr(owner, "__qualname__", None) or getattr(owner, "__name__", repr(owner)))
