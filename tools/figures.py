"""Fills the figures of README and docs from the result files, so that each figure stands in one place.

A result file (docs/results/figures/NAME.json) holds what one benchmark printed, with machine, date, commit,
runs, and where the figures come from. A page refers to it in three ways, all of them HTML comments:

<!-- table: NAME.KEY --> ... <!-- /table -->         a table, filled in
<!-- filled: TEMPLATE --> ... <!-- /filled -->       docs/results/templates/TEMPLATE.md, where {{NAME.KEY}}
                                                     or {{NAME.TABLE/ROW/COLUMN}} is a figure
<!-- figures: NAME, NAME --> ... <!-- /figures -->   prose, each number of which must stand in these files

`<!-- design: REASON -->` before a table says that its numbers are not measured. Tables of figures,
numbers with units in sections about measurements and in sentences that tell what was seen, and comparisons
anywhere must stand in such a mark.

python -m tools.figures            fills the pages
python -m tools.figures --check    names what has no source or differs, and fails if there is anything
python -m tools.figures --adopt    takes what was changed on the pages into the result files, and gives
                                   figures without a source a file, PAGE-adopted.json; write into it
                                   what is known of the run
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tools.markdown import table

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs" / "results" / "figures"
TEMPLATES = REPOSITORY / "docs" / "results" / "templates"
REMAKE = "`.venv/bin/python -m tools.figures`"
# Made by other programs, from their own results.
GENERATED = ("docs/compatibility.md", "docs/reference/")
# What a result file must say beside its figures; null stands for "not known".
PROVENANCE = ("benchmark", "machine", "date", "commit", "version", "runs", "source", "conditions")

_FILLED = re.compile(r"<!-- filled: (\S+) -->\n(.*?)<!-- /filled -->", re.DOTALL)
_TABLE = re.compile(r"<!-- table: (\S+) -->\n(.*?)<!-- /table -->", re.DOTALL)
_PROSE = re.compile(r"<!-- figures: ([\w, -]+) -->\n(.*?)<!-- /figures -->", re.DOTALL)
_DESIGN = re.compile(r"<!-- design: [^>]+ -->\n\n(?:\|.*\n)+")
_FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
# What looks like a figure and is none: code, addresses, comments, dates, releases.
_NO_FIGURE = re.compile(
    r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|\d{4}-\d\d-\d\d|\d+\.\d+\.\d+|#\d+|"
    r"\b(?:2\.(?:4[89]|5\d|60)|3\.1\d)(?![\d.]|\s?(?:x|ms|s|%|MB)\b)",
    re.DOTALL,
)
_DIGITS = r"(?<![\w.])\d(?:[\d,]*\d)?(?:\.\d+)?"
_NUMBER = re.compile(rf"{_DIGITS}(?![\w.]*\d)")
_UNIT = r"\s?(?:x|%|µs|us|ms|s|kB|KB|MB|GB|MB/s|GB/s|CPU s|per second|a second)"
_WITH_UNIT = re.compile(rf"{_DIGITS}{_UNIT}(?![\w/])")
_COMPARISON = re.compile(
    rf"{_DIGITS}(?:\s?[MG]B/s|x\b| times (?:the|as (?:fast|long|much|many|quick))\b)"
)
# A sentence that tells what was seen, wherever it stands.
_TOLD = re.compile(
    r"\b(?:took|showed|measured|reached|ran at|needed \d|lasted|seen|instead of \d|"
    r"takes (?:about )?[\d.]+ (?:µs|ms)|in our (?:tests|runs))\b"
)
_SENTENCE = re.compile(r"\S.*?(?:[.!?:](?=\s)|\Z|(?=\n\n)|(?=\n(?:[-#|*]|\d+\. )))", re.DOTALL)
_CELL = re.compile(rf"\**(?:[<>]|over)?\s?\d(?:[\d,]*\d)?(?:\.\d+)?(?:{_UNIT})?\**(?: / .*)?")
_ABOUT_MEASUREMENTS = re.compile(
    r"measured|results|^cost$|figures|under load|what came out|prediction|answers are|worlds|seeds",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Problem:
    """A figure of a page that has no source, or is not what its source says."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


class Results:
    """The result files of a directory, and the templates that are filled from them."""

    def __init__(self, directory: Path, templates: Path) -> None:
        """Read all of them.

        Raises:
            ValueError: a file lacks something.
        """
        self._files = {path.stem: self._read(path) for path in sorted(directory.glob("*.json"))}
        self._templates = {path.stem: path.read_text() for path in sorted(templates.glob("*.md"))}

    @staticmethod
    def _read(path: Path) -> Mapping[str, Any]:
        content: Mapping[str, Any] = json.loads(path.read_text())
        missing = [name for name in PROVENANCE if name not in content]
        if missing or not (content.get("figures") or content.get("tables")):
            wanted = ", ".join(missing) or "figures and tables"
            raise ValueError(
                f"{path.name} does not say: {wanted}; null stands for what is not known"
            )
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def figure(self, address: str) -> str:
        """Return a figure as a page shows it.

        Raises:
            KeyError: there is none of this address.
        """
        name, _, key = address.partition(".")
        if "/" not in key:
            return shown(self._files[name]["figures"][key])
        key, row, column = key.split("/", 2)
        found = self._files[name]["tables"][key]
        # A row is named by as many of its first cells as tell it from the others.
        rows = [
            cells
            for cells in found["rows"]
            if any(" ".join(cells[:count]) == row for count in range(1, len(cells)))
        ]
        if len(rows) != 1:
            raise KeyError(f"{len(rows)} rows of {name}.{key} begin with {row}")
        return str(dict(zip(found["head"], rows[0], strict=True))[column])

    def table(self, address: str) -> str:
        """Return a table as a page shows it.

        Raises:
            KeyError: there is none of this address.
        """
        name, _, key = address.partition(".")
        found = self._files[name]["tables"][key]
        return "\n" + table(found["head"], found["rows"]) + "\n"

    def filled(self, template: str) -> str:
        """Return a template with its figures.

        Raises:
            KeyError: there is no such template, or no figure of an address in it.
        """
        text = self._templates[template]
        return "\n" + re.sub(r"\{\{(.+?)\}\}", lambda match: self.figure(match[1]), text) + "\n"

    @cache  # noqa: B019  The object lives as long as the program.
    def numbers(self, name: str) -> frozenset[str]:
        """Return every number that a file contains, as pages show them.

        Raises:
            KeyError: there is no file of this name.
        """
        return frozenset(number.replace(",", "") for number in _numbers_in(self._files[name]))


def shown(figure: object) -> str:
    """Return a figure as a page shows it: thousands apart, and a bound as one."""
    if isinstance(figure, dict):
        return f"> {shown(figure['above'])}"
    if isinstance(figure, int | float):
        return f"{figure:,}"
    return str(figure)


def _numbers_in(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers_in(key)
            yield from _numbers_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from _numbers_in(value)
    elif isinstance(content, int | float):
        yield shown(content)
    elif isinstance(content, str):
        yield from _NUMBER.findall(content)


def pages() -> Iterator[Path]:
    """Yield README and every page of docs that a person writes."""
    yield REPOSITORY / "README.md"
    for path in sorted((REPOSITORY / "docs").rglob("*.md")):
        if not str(path.relative_to(REPOSITORY)).startswith(GENERATED):
            yield path


def filled(text: str, results: Results) -> str:
    """Return a page filled from the result files of today; what no file has stays."""

    def fill(kind: str, value: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
        def filling(match: re.Match[str]) -> str:
            with contextlib.suppress(KeyError):
                return f"<!-- {kind}: {match[1]} -->\n{value(match[1])}<!-- /{kind} -->"
            return match[0]

        return filling

    text = _FILLED.sub(fill("filled", results.filled), text)
    return _TABLE.sub(fill("table", results.table), text)


def problems(page: str, text: str, results: Results) -> Iterator[Problem]:
    """Yield what is wrong with the figures of a page."""

    def at(position: int, words: str) -> Problem:
        return Problem(page, text.count("\n", 0, position) + 1, words)

    # Everything of which the numbers are settled becomes blanks of the same length.
    rest = _FENCE.sub(_blank, text)
    for pattern, value in ((_FILLED, results.filled), (_TABLE, results.table)):
        for match in pattern.finditer(rest):
            try:
                right = value(match[1])
            except KeyError as error:
                yield at(match.start(), f"{match[1]}: docs/results has no {error}")
                continue
            if match[2] != right:
                why = f"{match[1]} is not what docs/results has; change it there and run {REMAKE}"
                yield at(match.start(), why)
        rest = pattern.sub(_blank, rest)
    for match in _PROSE.finditer(rest):
        try:
            known = frozenset[str]().union(*map(results.numbers, re.split(r",\s*", match[1])))
        except KeyError as error:
            yield at(match.start(), f"there is no result file {error}")
            continue
        prose = _NO_FIGURE.sub(_blank, match[2])
        for number in _NUMBER.finditer(prose):
            if number[0].replace(",", "") not in known:
                yield at(
                    match.start(2) + number.start(), f"{number[0]} stands in none of: {match[1]}"
                )
    rest = _NO_FIGURE.sub(_blank, _DESIGN.sub(_blank, _PROSE.sub(_blank, rest)))
    yield from _unmarked(page, rest)


def _unmarked(page: str, text: str) -> Iterator[Problem]:
    measured = page == "README.md"
    for number, line in enumerate(text.splitlines(), 1):
        if heading := re.match(r"#+ (.*)", line):
            measured = page == "README.md" or bool(_ABOUT_MEASUREMENTS.search(heading[1]))
        cells = (
            [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        )
        figures = [cell for cell in cells if _CELL.fullmatch(cell)]
        claims = _COMPARISON.findall(line) + (_WITH_UNIT.findall(line) if measured else [])
        if len(figures) > 2:
            yield Problem(
                page, number, f"a table of figures without a source: {', '.join(figures)}"
            )
        elif claims:
            yield Problem(page, number, f"figures without a source: {', '.join(claims)}")
    for sentence in _SENTENCE.finditer(text):
        if _TOLD.search(sentence[0]):
            for claim in _WITH_UNIT.finditer(sentence[0]):
                before = text.count("\n", 0, sentence.start() + claim.start())
                yield Problem(page, before + 1, f"a figure without a source: {claim[0]}")


def adopted(name: str, page: str, text: str, results: Results) -> tuple[str, dict[str, Any]]:
    """Return a page with marks around its figures without a source, and the result file for them.

    Args:
        name: of the result file.
        page: as for `problems`.
        text: of the page.
        results: what the page refers to already.
    """
    lines = text.splitlines()
    found: dict[str, Any] = {"figures": {}, "tables": {}}
    wrong = {each.line for each in problems(page, text, results) if "without a source" in each.text}
    blocks = []
    for number in sorted(wrong):
        begin = end = number - 1
        while begin and _goes_on(lines[begin - 1], lines[begin]):
            begin -= 1
        while end + 1 < len(lines) and _goes_on(lines[end], lines[end + 1]):
            end += 1
        if (begin, end) not in blocks:
            blocks.append((begin, end))
    for begin, end in reversed(blocks):
        block = lines[begin : end + 1]
        if block[0].startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block]
            found["tables"][f"line-{begin + 1}"] = {"head": rows[0], "rows": rows[2:]}
            marks = (f"<!-- table: {name}.line-{begin + 1} -->", "<!-- /table -->")
        else:
            found["figures"][f"line-{begin + 1}"] = " ".join(block)
            marks = (f"<!-- figures: {name} -->", "<!-- /figures -->")
        lines[begin : end + 1] = ["", marks[0], "", *block, "", marks[1], ""]
    made = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip("\n") + "\n"
    return made, {key: value for key, value in found.items() if value}


def newer_on_page(page: str, text: str, results: Results) -> dict[str, dict[str, Any]]:
    """Return what a person has changed inside the marks of a page, by result file, kind and key."""
    found: dict[str, dict[str, Any]] = {}

    def keep(name: str, kind: str, key: str, value: object) -> None:
        found.setdefault(name, {}).setdefault(kind, {})[key] = value

    plain = _FENCE.sub(_blank, text)
    for match in _TABLE.finditer(plain):
        name, _, key = match[1].partition(".")
        lines = [line for line in match[2].splitlines() if line.startswith("|")]
        if name in results and lines and match[2] != results.table(match[1]):
            head, _, *rows = (
                [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
            )
            keep(name, "tables", key, {"head": head, "rows": rows})
    for problem in problems(page, text, results):
        if "stands in none of" in problem.text:
            line = text.splitlines()[problem.line - 1].strip()
            keep(problem.text.rpartition(": ")[2].split(",")[0], "figures", line[:60], line)
    return found


def _goes_on(line: str, following: str) -> bool:
    """Return whether two lines belong to one paragraph, list or table."""
    return bool(line.strip() and following.strip()) and not (
        line.startswith(("#", "<!--")) or line.startswith("|") != following.startswith("|")
    )


def _adopt() -> None:
    unknown = dict.fromkeys(PROVENANCE)
    source = "The page had these figures; the output of the run was not kept."
    for path in pages():
        page, name = str(path.relative_to(REPOSITORY)), f"{path.stem.lower()}-adopted"
        text, results = path.read_text(), Results(RESULTS, TEMPLATES)
        made, unmarked = adopted(name, page, text, results)
        changed = newer_on_page(page, text, results) | ({name: unmarked} if unmarked else {})
        for stem, found in changed.items():
            file = RESULTS / f"{stem}.json"
            earlier = (
                json.loads(file.read_text()) if file.exists() else unknown | {"source": source}
            )
            for kind, values in found.items():
                earlier[kind] = earlier.get(kind, {}) | values
            file.write_text(json.dumps(earlier, indent=1, ensure_ascii=False) + "\n")
            print(
                f"figures: {file.name} has figures of {page}: {', '.join(found)}", file=sys.stderr
            )
        if unmarked:
            path.write_text(made)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def main(arguments: Sequence[str]) -> int:
    """Fill the pages or check them; return the exit status."""
    if list(arguments) not in ([], ["--check"], ["--adopt"]):
        print(__doc__, file=sys.stderr)
        return 2
    if arguments == ["--adopt"]:
        _adopt()
    results = Results(RESULTS, TEMPLATES)
    found: list[Problem] = []
    for path in pages():
        name, text = str(path.relative_to(REPOSITORY)), path.read_text()
        if "--check" not in arguments:
            text = filled(text, results)
            if text != path.read_text():
                path.write_text(text)
                print(f"figures: {name} is filled in", file=sys.stderr)
        found += problems(name, text, results)
    for problem in found:
        print(f"figures: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
