"""Fingerprints change with what code does, and with nothing else, on every Python."""

from __future__ import annotations

import ast
import inspect
import json
import random
import shutil
import string
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mantaray.overlay.fingerprints import fingerprint, fingerprints

CORPUS: list[ModuleType] = [ast, inspect, json.decoder, random, shutil, string, textwrap]


def definitions(source: str) -> Iterator[str]:
    """Yield every function and class of a module, and the methods of its classes."""
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        yield f"{node.name}.{inner.name}"


class Strip(ast.NodeTransformer):
    """Takes away what must not count: docstrings, annotations of arguments and results."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node


@pytest.mark.parametrize("module", CORPUS, ids=lambda module: module.__name__)
def test_comments_layout_docstrings_and_annotations_do_not_count(module: ModuleType) -> None:
    source = inspect.getsource(module)
    names = sorted(set(definitions(source)))
    assert len(names) > 3
    stripped = ast.unparse(ast.fix_missing_locations(Strip().visit(ast.parse(source))))
    assert stripped != source
    assert fingerprints(stripped, names) == fingerprints(source, names)


@pytest.mark.parametrize(
    "change",
    [
        ("total = 0", "total = 1"),
        ("total = 0", "total = 0.0"),
        ("total = 0", "total = '0'"),
        ("total = 0", "total = False"),
        ("item + 1", "item - 1"),
        ("item + 1", "1 + item"),
        ("total += item", "total -= item"),
        ("items=()", "items=[]"),
        ("items=()", "items=(), *, more=1"),
        ("(self, items=())", "(self, /, items=())"),
        ("return total", "return None"),
        ("return total", "yield total"),
        ("return total", "total"),
        ("    def count", "    async def count"),
        ("    @cache", "    @other"),
        ("    @cache\n", ""),
        ("class Counter(Base)", "class Counter"),
        ("class Counter(Base)", "class Counter(Base, metaclass=M)"),
        ("{item!r:>{width}}", "{item!s:>{width}}"),
        ("{item!r:>{width}}", "{item!r:>{height}}"),
        ("{item!r:>{width}}", "{item!r}"),
        ("text {{", "text {{{{"),
        ("limit: int = 3", "limit: int = 4"),
        ("limit: int = 3", "limit = 3"),
        ("except ValueError", "except KeyError"),
        ("{**items}", "{None: items}"),
        ("items[1:]", "items[:1]"),
        ("'doc'", "'not a docstring' + str()"),
    ],
    ids=lambda change: f"{change[0].strip()}->{change[1].strip()}",
)
def test_a_semantic_change_is_seen(change: tuple[str, str]) -> None:
    source = textwrap.dedent(
        """
        class Counter(Base):
            limit: int = 3

            @cache
            def count(self, items=()):
                'doc'
                total = 0
                for item in items[1:]:
                    total += item + 1
                    print(f"text {{ {item!r:>{width}}")
                try:
                    print({**items})
                except ValueError:
                    pass
                return total
        """
    )
    before, after = change
    assert before in source
    assert fingerprint(source, "Counter") != fingerprint(source.replace(before, after), "Counter")


_MUTABLE = (ast.Name, ast.Attribute, ast.Constant, ast.arg, ast.keyword, ast.BinOp, ast.Compare)


def mutate(node: ast.AST) -> bool:
    """Change what one node means; return False for one that must stay (an empty annotation)."""
    if isinstance(node, ast.Name):
        node.id += "_x"
    elif isinstance(node, ast.Attribute):
        node.attr += "_x"
    elif isinstance(node, (ast.arg, ast.keyword)):
        node.arg = f"{node.arg}_x"
    elif isinstance(node, ast.Constant):
        node.value = f"another {node.value!r}"
    elif isinstance(node, ast.BinOp):
        node.op = ast.Add() if not isinstance(node.op, ast.Add) else ast.Sub()
    elif isinstance(node, ast.Compare):
        node.ops[0] = ast.Is() if not isinstance(node.ops[0], ast.Is) else ast.IsNot()
    else:
        return False
    return True


@given(st.sampled_from(CORPUS), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_change_of_a_node_is_seen(module: ModuleType, chooser: random.Random) -> None:
    # What does not count is stripped first, so that every node left counts.
    tree = Strip().visit(ast.parse(inspect.getsource(module)))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    function = chooser.choice(functions)
    nodes = [
        node
        for statement in function.body
        for node in ast.walk(statement)
        if isinstance(node, _MUTABLE) and not isinstance(statement, ast.AnnAssign)
    ]
    if not nodes:
        return
    before = fingerprint(ast.unparse(function), function.name)
    assert before is not None
    node = chooser.choice(nodes)
    assert mutate(node)
    try:
        changed = ast.unparse(function)
        ast.parse(changed)
    except (SyntaxError, ValueError):
        return
    assert fingerprint(changed, function.name) != before


def test_what_is_not_there_has_no_fingerprint() -> None:
    source = "import os\nfrom os import path\nclass A:\n    def f(self): ...\n"
    assert fingerprints(source, ["B", "A.g", "A.f.x", "path", "os", "f"]) == dict.fromkeys(
        ["B", "A.g", "A.f.x", "path", "os", "f"]
    )


def test_every_definition_of_a_name_counts() -> None:
    one = "if X:\n    def f(): return 1\nelse:\n    def f(): return {}\n"
    assert fingerprint(one.format(2), "f") != fingerprint(one.format(3), "f")
    accessor = (
        "class A:\n    @property\n    def p(self): ...\n    @p.setter\n    def p(self, v): {}"
    )
    assert fingerprint(accessor.format("f(v)"), "A.p") != fingerprint(
        accessor.format("g(v)"), "A.p"
    )
    late = "def f(): ...\nf = wrap(f)\n"
    assert fingerprint(late, "f") != fingerprint("def f(): ...\n", "f")


def test_variables_have_fingerprints() -> None:
    assert fingerprint("LIMIT = 3", "LIMIT") != fingerprint("LIMIT = 4", "LIMIT")
    assert fingerprint("LIMIT: int = 3", "LIMIT") == fingerprint("LIMIT: float = 3", "LIMIT")
    assert fingerprint("a, LIMIT = 1, 2", "LIMIT") is not None
    assert fingerprint("other.LIMIT = 3", "LIMIT") is None


def test_source_that_is_not_python_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        fingerprint("def f(:", "f")


# Everything that Pythons are known to write into their trees differently.
ACROSS_PYTHONS = """
def f(a, /, b: int = 1, *c, d=None, **e) -> int:
    "doc"
    x = f"{a!r:>{b}}" f"tail {{c}}" "plain" f"{a:}" f"{b=}" f'{{{a}}}'
    y = u"text" + "\\u00e9\\U0001f680" + str(1_000_000 * 1e300 + 0.1j)
    with open(a) as p, open(b) as q:
        z = p[q, 1:2, ...]
    match z:
        case {"k": [1, *rest], **more} | None: return -1
    async def inner(): return [i async for i in a if await i]
    try: ...
    except (ValueError, KeyError) as error: raise error from None
    return lambda: (yield)
class C(f, metaclass=f):
    n: int
    @property
    def p(self): del self.x; global g; g = {**self.y}; return b"\\x00"
"""
PINNED = {"f": "dd5da7baacb55979", "C": "a4ad53a4f94db62b"}


def pythons() -> list[Path]:
    """Return one interpreter of each minor version from 3.10 to 3.13 found on this machine."""
    found = {}
    candidates = [Path(p) for n in range(10, 14) if (p := shutil.which(f"python3.{n}"))]
    candidates += sorted(Path.home().glob(".pyenv/versions/3.1[0-3]*/bin/python"))
    for candidate in candidates:
        program = "import sys; print(*sys.version_info[:2])"
        asked = subprocess.run([candidate, "-c", program], capture_output=True, text=True)
        if asked.returncode == 0:
            found[asked.stdout.strip()] = candidate
    return list(found.values())


def test_every_python_finds_the_same_fingerprints() -> None:
    assert fingerprints(ACROSS_PYTHONS, PINNED) == PINNED

    home = inspect.getsourcefile(fingerprints)
    assert home is not None
    program = (
        "import json, runpy, sys;"
        "fingerprints = runpy.run_path(sys.argv[1])['fingerprints'];"
        "print(json.dumps(fingerprints(sys.argv[2], ['f', 'C'])))"
    )
    for python in pythons():
        asked = subprocess.run(
            [python, "-c", program, home, ACROSS_PYTHONS], capture_output=True, text=True
        )
        assert json.loads(asked.stdout) == PINNED, f"{python}: {asked.stderr}"
