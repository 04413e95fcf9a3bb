"""Changing objects of Ray so that every change can be taken back.

An installer of a patch gets an `Installation` and changes Ray only through it, which makes rolling
back and uninstalling possible.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

Wrapper = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]

_ABSENT = object()


class Installation:
    """The changes that one installer has made to one module. They are undone in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def replace(self, owner: object, name: str, value: object) -> None:
        """Set an attribute of a module, class or object.

        Args:
            owner: the object with the attribute.
            name: of the attribute, which need not exist yet.
            value: what to put there.

        Raises:
            AttributeError, TypeError: the owner cannot be changed.
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
        """Wrap an existing function; methods of every kind work.

        Args:
            owner: the module or class whose function it is.
            name: the name of the function.
            wrapper: called as wrapper(wrapped, instance, args, kwargs) in its stead.

        Raises:
            AttributeError: there is no such function.
        """
        # The raw attribute, because a classmethod that is read with getattr is bound already.
        original = inspect.getattr_static(owner, name)
        self.replace(owner, name, _wrapped(owner, original, wrapper))

    def on_undo(self, fn: Callable[[], None]) -> None:
        """Call `fn` during the undo, before earlier changes are undone."""
        self._undo.append(fn)

    def undo(self) -> list[str]:
        """Undo every change, the last first; return in words what could not be undone."""
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
    """Return the owner's own attribute of a name, unbound, without what it inherits."""
    attributes: Mapping[str, object] | None = getattr(owner, "__dict__", None)
    if attributes is None:
        return getattr(owner, name, _ABSENT)
    return attributes.get(name, _ABSENT)


def _describe(owner: object) -> str:
    return str(getattr(owner, "__qualname__", None) or getattr(owner, "__name__", repr(owner)))
