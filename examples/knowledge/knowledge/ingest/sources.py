"""The sources that come with the service, and the routes to them.

Triggers: "manual", somebody asked for it; "schedule", its time has come; "upload", a text came over
HTTP; "fact", something to be kept for good, in long-term memory.
"""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from knowledge import corpus
from knowledge.ingest.routes import ROUTES, DocumentSource
from knowledge.memory.manager import stable_id
from knowledge.text import clean
from knowledge.types import Document, Layer, SourceError, Value

# A text is read whole; what is longer is no text that anybody wrote.
MAX_DOCUMENT_BYTES = 64 * 2**20
_PATTERNS = "*.md,*.markdown,*.txt,*.rst"
# A shard is what a killed run may have to read and embed again.
_FILES_A_SHARD = 16
_DOCUMENTS_A_SHARD = 32
_SHARD_BYTES = 2**17
_PAGES_A_SHARD_BYTES = 4 * 2**20


@dataclasses.dataclass(frozen=True)
class DocstringSource:
    """Documentation strings; see `corpus.docstrings`."""

    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()
    limit: int | None = None

    def shards(self) -> Sequence[tuple[Document, ...]]:
        """See `DocumentSource`. Which name is an object's own shows only when all are known."""
        found = corpus.docstrings(self.packages, self.modules, self.limit)
        return _grouped(found, _DOCUMENTS_A_SHARD)

    def read(self, shard: tuple[Document, ...]) -> Iterator[Document]:
        """See `DocumentSource`."""
        yield from shard


@dataclasses.dataclass(frozen=True)
class DirectorySource:
    """Text files of a directory and of all below it.

    Args:
        root: the directory. Its name and a file's path in it are the document's URI.
        patterns: of the files' names.
    """

    root: str
    patterns: tuple[str, ...]

    def shards(self) -> Sequence[tuple[str, ...]]:
        """See `DocumentSource`."""
        root = Path(self.root)
        if not root.is_dir():
            raise SourceError(f"there is no directory {self.root}")
        found = {
            path for pattern in self.patterns for path in root.rglob(pattern) if path.is_file()
        }
        names = sorted(path.relative_to(root).as_posix() for path in found)
        return _grouped(names, _FILES_A_SHARD)

    def read(self, shard: tuple[str, ...]) -> Iterator[Document]:
        """See `DocumentSource`. A file that is gone meanwhile is left out."""
        root = Path(self.root)
        for name in shard:
            try:
                text = _read_text(root / name)
            except FileNotFoundError:
                continue
            yield Document(f"file://{root.resolve().name}/{name}", name, text)


@dataclasses.dataclass(frozen=True)
class TextSource:
    """One text, given as it is."""

    document: Document

    def shards(self) -> Sequence[Document]:
        """See `DocumentSource`."""
        return [self.document]

    def read(self, shard: Document) -> Iterator[Document]:
        """See `DocumentSource`."""
        yield shard


@dataclasses.dataclass(frozen=True)
class JsonLinesSource:
    """A file with a JSON object a line: "uri", "text", and perhaps "title" and "metadata"."""

    path: str

    def shards(self) -> Sequence[tuple[int, int]]:
        """See `DocumentSource`: from which byte to which; a line is where it begins."""
        path = Path(self.path)
        if not path.is_file():
            raise SourceError(f"there is no file {self.path}")
        size = path.stat().st_size
        return [(start, start + _SHARD_BYTES) for start in range(0, size, _SHARD_BYTES)]

    def read(self, shard: tuple[int, int]) -> Iterator[Document]:
        """See `DocumentSource`."""
        start, end = shard
        with open(self.path, "rb") as file:
            if start:
                # The line that began before belongs to the shard before.
                file.seek(start - 1)
                file.readline()
            while (place := file.tell()) < end:
                line = file.readline()
                if not line:
                    return
                if line.strip():
                    yield _document_of(line, f"{self.path}, byte {place}")


@dataclasses.dataclass(frozen=True)
class CrawlSource:
    """Made-up web pages, as many and as large as is asked for; see `corpus.crawl_page`."""

    pages: int
    page_bytes: int
    seed: int

    def shards(self) -> Sequence[tuple[int, int]]:
        """See `DocumentSource`: from which page to which."""
        step = max(1, min(_DOCUMENTS_A_SHARD, _PAGES_A_SHARD_BYTES // max(1, self.page_bytes)))
        return [(first, min(first + step, self.pages)) for first in range(0, self.pages, step)]

    def read(self, shard: tuple[int, int]) -> Iterator[Document]:
        """See `DocumentSource`."""
        for index in range(*shard):
            uri, page = corpus.crawl_page(index, self.page_bytes, self.seed)
            yield page_document(uri, page)


def page_document(uri: str, page: str) -> Document:
    """Return what an HTML page says: its title and its text, without markup, scripts and styles."""
    reader = _PageReader()
    reader.feed(page)
    reader.close()
    return Document(uri, " ".join("".join(reader.title).split()), reader.text())


_BLOCKS = (
    "p div section article header footer main nav aside ul ol li table tr h1 h2 h3 h4 h5 h6"
    " pre blockquote br hr title"
)


class _PageReader(html.parser.HTMLParser):
    _SILENT = frozenset(("script", "style", "template", "noscript", "svg"))
    _BLOCKS = frozenset(_BLOCKS.split())

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self._text: list[str] = []
        self._silent = 0
        self._preformatted = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in self._SILENT
        self._in_title |= tag == "title"
        self._preformatted += tag == "pre"
        if tag in self._BLOCKS:
            self._text.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._SILENT and self._silent:
            self._silent -= 1
        if tag == "title":
            self._in_title = False
        if tag == "pre" and self._preformatted:
            self._preformatted -= 1
        if tag in self._BLOCKS:
            self._text.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._silent:
            # Line ends mean something in preformatted text only.
            self._text.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        lines = "".join(self._text).split("\n")
        joined = "\n".join(" ".join(line.split()) for line in lines)
        return re.sub(r"\n{3,}", "\n\n", joined).strip()


@ROUTES.route("manual", "python-docs", Layer.CONTEXTUAL)
@ROUTES.route("schedule", "python-docs", Layer.CONTEXTUAL)
def python_docs(
    packages: str = "python,numpy", modules: str = "", limit: int = 0
) -> DocumentSource:
    """Return the documentation strings of this Python's packages.

    Args:
        packages: "python", the standard library, or "numpy", or both.
        modules: only of these, such as "json,numpy.linalg"; empty for all.
        limit: how many at most; 0 for all.
    """
    return DocstringSource(_names(packages), _names(modules), limit or None)


@ROUTES.route("manual", "directory", Layer.CONTEXTUAL)
@ROUTES.route("schedule", "directory", Layer.CONTEXTUAL)
def directory(path: str, patterns: str = _PATTERNS) -> DocumentSource:
    """Return the text files below a directory."""
    return DirectorySource(path, _names(patterns))


@ROUTES.route("manual", "jsonl", Layer.CONTEXTUAL)
@ROUTES.route("schedule", "jsonl", Layer.CONTEXTUAL)
def jsonl(path: str) -> DocumentSource:
    """Return the documents of a file of JSON lines."""
    return JsonLinesSource(path)


@ROUTES.route("manual", "crawl", Layer.CONTEXTUAL)
def crawl(pages: int, page_bytes: int = 1_000_000, seed: int = 0) -> DocumentSource:
    """Return made-up pages, to see what the machine does with much of them."""
    return CrawlSource(pages, page_bytes, seed)


@ROUTES.route("manual", "text", Layer.CONTEXTUAL)
@ROUTES.route("upload", "text", Layer.CONTEXTUAL)
@ROUTES.route("fact", "text", Layer.LONG_TERM)
def text(text: str, uri: str = "", title: str = "") -> DocumentSource:
    """Return one text; without a URI, the same text is the same document."""
    if not clean(text).strip():
        raise SourceError("there is no text in the text")
    return TextSource(_document(uri or f"text://{stable_id(title, text)}", title, text, {}))


def _document_of(line: bytes, where: str) -> Document:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{where}: no JSON ({error})") from None
    if not isinstance(found, dict):
        raise SourceError(f"{where}: no JSON object")
    surplus = set(found) - {"uri", "title", "text", "metadata"}
    if surplus:
        raise SourceError(f"{where}: unknown {', '.join(sorted(surplus))}")
    uri, title, body = found.get("uri"), found.get("title", ""), found.get("text")
    if not isinstance(uri, str) or not uri or not isinstance(body, str):
        raise SourceError(f"{where}: a document has a uri and a text")
    metadata = found.get("metadata", {})
    if not isinstance(title, str) or not isinstance(metadata, dict):
        raise SourceError(f"{where}: a title is a string, metadata an object")
    wrong = [key for key, value in metadata.items() if not isinstance(value, str | int | float)]
    if wrong:
        raise SourceError(f"{where}: metadata {wrong[0]!r} is no string, number or truth value")
    return _document(uri, title, body, metadata)


def _document(uri: str, title: str, text: str, metadata: dict[str, Any]) -> Document:
    known: dict[str, Value] = {
        clean(key): clean(value) if isinstance(value, str) else value
        for key, value in metadata.items()
    }
    return Document(clean(uri), clean(title) or clean(uri), clean(text), known)


def _read_text(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_DOCUMENT_BYTES:
        raise SourceError(f"{path} has {size} bytes; a document has {MAX_DOCUMENT_BYTES} at most")
    try:
        return clean(path.read_text(encoding="utf-8", errors="replace"))
    except PermissionError as error:
        raise SourceError(f"{path} cannot be read: {error}") from None


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _grouped(items: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
