"""Finds every message of the product in its sources; an ellipsis stands for what is filled in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Errors whose second argument says what to do, and in which place the message is for the rest.
_WITH_REMEDY = ("CliError", "WheelError")
_MESSAGE_AT = {"LinkError": 1, "NotALogFileError": 1}
_LOGGED = {"warning": "warning in a log", "error": "error in a log", "exception": "error in a log"}
# Functions that make an error: its class, what they say before their argument, and what to do.
_MADE_BY = {"_damaged": ("WheelError", "… is damaged: ", "get the wheel again")}
# Errors that only a mistake in Mantaray's own code can cause are left out.
_INTERNAL = ("AssertionError", "AttributeError")
# The shortest text that is worth searching for.
_MIN_CHARS = 8
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NATIVE_ERROR = re.compile(r"absl::(\w+Error)\(")


@dataclass(frozen=True, order=True)
class Message:
    """One message.

    Attributes:
        component: the part of Mantaray that says it, as the first directory below the sources.
        text: what it says; what is filled in is an ellipsis.
        remedy: what to do, where that is said apart.
        kind: the class of the error, or the kind of the log line.
    """

    component: str
    text: str
    remedy: str
    kind: str


def python_messages(root: Path) -> Iterator[Message]:
    """Yield what the Python sources below a directory say.

    Args:
        root: the directory of the package.
    """
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        component = relative.parts[0] if len(relative.parts) > 1 else "all"
        for node in ast.walk(ast.parse(path.read_text())):
            if (found := _raised(node) or _logged(node)) is not None:
                kind, text, remedy = found
                if len(text.replace("…", "").strip()) >= _MIN_CHARS:
                    yield Message(component, text, remedy, kind)


def native_messages(root: Path) -> Iterator[Message]:
    """Yield what statuses of the C++ sources below a directory say; tests are left out.

    Args:
        root: the directory with one directory a component.
    """
    for path in sorted(root.rglob("*.cc")):
        if path.stem.endswith(("_test", "_fuzz", "_bench")):
            continue
        source = path.read_text()
        for match in _NATIVE_ERROR.finditer(source):
            text = _joined_literals(_arguments(source, match.end()))
            if len(text.replace("…", "").strip()) >= _MIN_CHARS:
                yield Message(path.relative_to(root).parts[0], text, "", match[1])


def _raised(node: ast.AST) -> tuple[str, str, str] | None:
    if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
        return None
    kind = ast.unparse(node.exc.func).split(".")[-1]
    at = _MESSAGE_AT.get(kind, 0)
    if kind in _INTERNAL or len(node.exc.args) <= at:
        return None
    if kind in _MADE_BY:
        kind, opening, remedy = _MADE_BY[kind]
        return kind, opening + _text(node.exc.args[at]), remedy
    remedy = _text(node.exc.args[1]) if kind in _WITH_REMEDY and len(node.exc.args) > 1 else ""
    return kind, _text(node.exc.args[at]), "" if remedy == "…" else remedy


def _logged(node: ast.AST) -> tuple[str, str, str] | None:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
        return None
    kind = _LOGGED.get(node.func.attr)
    if kind is None or "log" not in ast.unparse(node.func.value).lower():
        return None
    return kind, re.sub(r"%[srd]", "…", _text(node.args[0])), ""


def _text(node: ast.expr) -> str:
    """Return what an expression says, with an ellipsis for each part that is filled in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "…"
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def _arguments(source: str, begin: int) -> str:
    """Return the source from `begin` to the parenthesis that closes the call."""
    depth, quoted = 1, False
    for end in range(begin, len(source)):
        character = source[end]
        if character == '"' and source[end - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (character == "(") - (character == ")")
        if depth == 0:
            return source[begin:end]
    return ""


def _joined_literals(arguments: str) -> str:
    """Return the string literals of a call in their order, with an ellipsis for what is between them."""
    parts: list[str] = []
    end = 0
    for match in _LITERAL.finditer(arguments):
        between = arguments[end : match.start()].replace("absl::StrCat(", "").strip(" ,\n")
        parts += ["…"] * bool(between) + [match[1]]
        end = match.end()
    return "".join(parts + ["…"] * bool(arguments[end:].strip(" ,\n)")))


def by_component(messages: Sequence[Message]) -> dict[str, list[Message]]:
    """Return the messages of each component, each text once."""
    found: dict[str, dict[str, Message]] = {}
    for message in sorted(messages):
        found.setdefault(message.component, {}).setdefault(message.text, message)
    return {component: list(texts.values()) for component, texts in found.items()}
