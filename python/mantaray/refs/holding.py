"""Describes in words how one Python object holds another: by an attribute, an element, a closure, a local.

Part of `mantaray.refs`. This code runs in a copy of a process (see `mantaray.refs.forked`), so it never
calls code of the user, such as a `__repr__` or a property.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

_LONGEST_KEY = 40
_PLAIN_KEYS = (str, int, float, bool, bytes, type(None))
_SUSPENDED = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_FRAMES = ("gi_frame", "cr_frame", "ag_frame")


def path(nodes: Sequence[Any]) -> str:
    """Return how the first of some objects leads to the last, each holding the next."""
    words = ""
    place = 0
    while place + 1 < len(nodes):
        label, taken = _label(nodes, place)
        words += label
        place += taken
    return words


def where(frame: types.FrameType) -> str:
    """Return function, file and line of a frame."""
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f"{name} ({PurePath(code.co_filename).name}:{frame.f_lineno})"


def attributes(holder: Any) -> dict[str, Any] | None:
    """Return the dictionary of an object's attributes, without a look at its class."""
    try:
        found = object.__getattribute__(holder, "__dict__")
    except Exception:
        return None
    return found if type(found) is dict else None


def key_of(holder: Any, held: Any) -> str:
    """Return the name under which a dictionary holds an object; "?" if there is none."""
    return next((str(name) for name, each in holder.items() if each is held), "?")


def _label(nodes: Sequence[Any], place: int) -> tuple[str, int]:
    """Return in words how one object holds the next, and how many objects these words cover."""
    holder, held = nodes[place], nodes[place + 1]
    left = nodes[place + 2 :]
    if left and attributes(holder) is held:
        return f".{key_of(held, left[0])}", 2
    if isinstance(holder, types.FunctionType):
        if holder.__closure__ is held and len(left) > 1:
            name = holder.__code__.co_freevars[_index_of(held, left[0]) or 0]
            return f" -> closure variable {name} of {_function(holder)}", 3
        if holder.__defaults__ is held or holder.__kwdefaults__ is held:
            return f" -> defaults of {_function(holder)}", 1
    return _single(holder, held), 1


def _single(holder: Any, held: Any) -> str:
    if isinstance(holder, dict):
        return f"[{_dict_key(holder, held)}]"
    if isinstance(holder, list | tuple | deque):
        index = _index_of(holder, held)
        return "[?]" if index is None else f"[{index}]"
    if isinstance(holder, set | frozenset):
        return " -> a member of the set"
    if isinstance(holder, types.FrameType):
        return f" -> {_local(holder, held)}"
    if isinstance(holder, _SUSPENDED):
        return _of_suspended(holder, held)
    if isinstance(holder, BaseException) and holder.__traceback__ is held:
        return f" -> traceback of {type(holder).__name__}"
    if isinstance(holder, types.TracebackType | types.CellType):
        return ""
    if isinstance(holder, types.MethodType) and holder.__self__ is held:
        return ".__self__"
    return _attribute(holder, held)


def _attribute(holder: Any, held: Any) -> str:
    found = attributes(holder)
    if found is not None:
        name = key_of(found, held)
        if name != "?":
            return f".{name}"
    for base in type(holder).__mro__:
        for name, member in vars(base).items():
            if isinstance(member, types.MemberDescriptorType) and _slot(member, holder) is held:
                return f".{name}"
    return f" -> (inside of {type(holder).__name__})"


def _slot(member: types.MemberDescriptorType, holder: Any) -> Any:
    try:
        return member.__get__(holder)
    except Exception:
        return None


def _of_suspended(holder: Any, held: Any) -> str:
    for name in _FRAMES:
        frame = getattr(holder, name, None)
        if frame is held:
            return ""
        if frame is not None:
            return f" -> {_local(frame, held)}"
    return f" -> (inside of {type(holder).__name__})"


def _local(frame: types.FrameType, held: Any) -> str:
    name = key_of(frame.f_locals, held)
    what = "a value in the middle" if name == "?" else f"local {name}"
    return f"{what} of {where(frame)}"


def _function(function: types.FunctionType) -> str:
    code = function.__code__
    return f"{function.__qualname__} ({PurePath(code.co_filename).name}:{code.co_firstlineno})"


def _index_of(holder: Any, held: Any) -> int | None:
    return next((index for index, each in enumerate(holder) if each is held), None)


def _dict_key(holder: dict[Any, Any], held: Any) -> str:
    for key, each in dict.items(holder):
        if each is held:
            return _shown(key)
    return f"a key: {_shown(held)}" if any(key is held for key in dict.keys(holder)) else "?"


def _shown(key: Any) -> str:
    """Return a key as text, without calling code of the user."""
    if type(key) in _PLAIN_KEYS:
        text = repr(key)
        return text if len(text) <= _LONGEST_KEY else f"{text[:_LONGEST_KEY]}…"
    return f"<{type(key).__name__}>"
