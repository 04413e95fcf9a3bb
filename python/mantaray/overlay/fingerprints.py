"""Fingerprints: what a piece of Ray's Python source *means*, in sixteen hexadecimal digits.

A fingerprint is the hash of a normalised syntax tree. Comments, layout, docstrings and the
annotations of arguments and results do not count. Everything that runs counts. This module writes
the tree out itself, because the output of `ast.dump` changes from one Python to the next. It skips
empty fields and hides the few known differences between Python 3.10 and 3.13, so that one set of
fingerprints serves all of them.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Not what runs.
_IGNORED_FIELDS = frozenset({"annotation", "returns", "type_comment", "type_ignores"})


def digest(source: bytes) -> str:
    """Return the SHA-256 of a whole source file, in hexadecimal digits."""
    return hashlib.sha256(source).hexdigest()


def fingerprint(source: str | bytes, attribute: str) -> str | None:
    """Return the fingerprint of a function, class or variable.

    Args:
        source: the whole text of a module.
        attribute: where it is inside the module, "setup" or "Node.start" for what is in a class.

    Returns:
        Sixteen hexadecimal digits, or None when the module defines no such thing.

    Raises:
        SyntaxError: the source is not Python that this interpreter can read.
    """
    return fingerprints(source, (attribute,))[attribute]


def fingerprints(source: str | bytes, attributes: Iterable[str]) -> dict[str, str | None]:
    """Return the fingerprints of several attributes of one module, which is parsed once.

    Args:
        source: as for `fingerprint`.
        attributes: as for `fingerprint`, any number of them.

    Raises:
        SyntaxError: the source is not Python that this interpreter can read.
    """
    body = ast.parse(source).body
    return {attribute: _fingerprint_in(body, attribute) for attribute in attributes}


def definitions(source: str | bytes, attribute: str) -> list[ast.stmt]:
    """Return the statements that a fingerprint of `attribute` stands for; empty if there are none.

    Args:
        source: as for `fingerprint`.
        attribute: as for `fingerprint`.

    Raises:
        SyntaxError: the source is not Python that this interpreter can read.
    """
    return _definitions(ast.parse(source).body, attribute)


def _fingerprint_in(scope: list[ast.stmt], attribute: str) -> str | None:
    # All definitions in order. A property has two or three, and any of the alternatives behind an
    # `if` may be the one in use.
    found = "\n".join(_write(node) for node in _definitions(scope, attribute))
    return hashlib.sha256(found.encode("ascii")).hexdigest()[:16] if found else None


def _definitions(scope: list[ast.stmt], attribute: str) -> list[ast.stmt]:
    *parents, name = attribute.split(".")
    for parent in parents:
        scope = [
            inner
            for node in _bindings(scope, parent)
            if isinstance(node, _SCOPES)
            for inner in node.body
        ]
    return list(_bindings(scope, name))


def _bindings(body: list[ast.stmt], name: str) -> Iterator[ast.stmt]:
    """Yield the statements of this scope that define `name`, also those inside if, try or with."""
    for node in body:
        if isinstance(node, _SCOPES):
            if node.name == name:
                yield node
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            if name in _assigned_names(node):
                yield node
        else:
            yield from _bindings(list(_nested_statements(node)), name)


def _assigned_names(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {
        leaf.id
        for target in targets
        for leaf in ast.walk(target)
        if isinstance(leaf, ast.Name) and isinstance(leaf.ctx, ast.Store)
    }


def _nested_statements(node: ast.AST) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
            yield from child.body


def _write(value: object) -> str:
    """Write a node, a list or a plain value the same way on every Python."""
    if isinstance(value, list):
        return "[" + ",".join(_write(item) for item in value) + "]"
    if isinstance(value, ast.Constant):
        return f"Constant({_write(value.value)})"
    if isinstance(value, ast.AST):
        fields = ",".join(f"{name}={_write(field)}" for name, field in _fields(value))
        return f"{type(value).__name__}({fields})"
    # Escaped, because the characters that repr() does not escape change with Unicode versions.
    return f"{type(value).__name__}:{value!a}"


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield the fields that count. Empty fields are skipped, because newer Pythons add some."""
    for name, field in ast.iter_fields(node):
        if name in _IGNORED_FIELDS or field is None or field == []:
            continue
        if name == "body" and isinstance(node, _SCOPES):
            yield name, _without_docstring(node.body)
        elif name == "values" and isinstance(node, ast.JoinedStr):
            yield name, _merged(node.values)
        else:
            yield name, field


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    if not (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return body
    return body[1:] or [ast.Pass()]


def _merged(values: list[ast.expr]) -> list[ast.expr]:
    """Join neighbouring pieces of text in an f-string, which Python versions cut in different places."""
    merged: list[ast.expr] = []
    for value in values:
        text = value.value if isinstance(value, ast.Constant) else None
        if not isinstance(text, str):
            merged.append(value)
        elif merged and isinstance(previous := merged[-1], ast.Constant):
            merged[-1] = ast.Constant(value=str(previous.value) + text)
        elif text:
            merged.append(ast.Constant(value=text))
    return merged
