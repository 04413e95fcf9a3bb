"""Checks that each block of a page names the tests of what it promises.

A block of text is followed by a comment that names its tests (`<!-- tests: ... -->`), or that says that the
block explains something and promises nothing (`<!-- explains -->`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_COMMENT = re.compile(r"<!-- (tests: (?P<tests>[^>]+?)|explains) -->", re.DOTALL)
_ITEM = re.compile(r"(\d+\.|-) ")


def names_of_tests(*subsystems: str) -> set[str]:
    """Return the names of all Python tests, and of the C++ tests of some directories of src/mantaray."""
    names = set()
    for file in (REPOSITORY / "tests").rglob("test_*.py"):
        names |= set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
    for subsystem in subsystems:
        for file in (REPOSITORY / "src" / "mantaray" / subsystem).glob("*_test.cc"):
            found = re.findall(r"^TEST(?:_F|_P)?\((\w+),\s*(\w+)\)", file.read_text(), re.MULTILINE)
            names |= {f"{suite}.{name}" for suite, name in found}
    return names


def without_tests(page: str, known: set[str], no_promises: Iterable[str]) -> list[str]:
    """Return what is wrong with a page: blocks without a comment, and tests that do not exist.

    Args:
        page: its text.
        known: the names of tests.
        no_promises: titles of sections that promise nothing.
    """
    wrong = []
    for title, section in _sections(page):
        if title in no_promises:
            continue
        for block in _blocks(section):
            comment = _COMMENT.search(block)
            if comment is None:
                wrong.append(f"{title}: no comment names the tests of: {block[:60]}")
                continue
            named = re.split(r",\s*", (comment["tests"] or "").strip())
            wrong += [
                f"{title}: no such test: {name}" for name in named if name and name not in known
            ]
    return wrong


def _sections(page: str) -> Iterator[tuple[str, str]]:
    parts = re.split(r"^##+ (.+)$", page, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def _blocks(section: str) -> Iterator[str]:
    """Yield the paragraphs, list items and tables of a section, each with the comment behind it."""
    section = re.sub(r"^ *```.*?^ *```$", "", section, flags=re.MULTILINE | re.DOTALL)
    section = re.sub(r"<!-- table: .*?<!-- /table -->", "", section, flags=re.DOTALL)
    section = re.sub(r"<!-- /?figures\b.*?-->", "", section)
    block = ""
    for line in section.splitlines():
        starts = line.strip() and (_ITEM.match(line) or block.endswith("\n\n"))
        if starts and block.strip() and not line.startswith("<!--"):
            yield block.strip()
            block = ""
        block += line + "\n"
    if block.strip():
        yield block.strip()
