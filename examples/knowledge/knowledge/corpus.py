"""Documents that are on every machine, and as many more as one wants.

The documentation strings of Python's standard library and of NumPy are a corpus of some thousand
documents that needs no download. For load there are made-up web pages, the same on every machine.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import pkgutil
import random
import subprocess
import sys
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from knowledge.text import clean
from knowledge.types import Document, SourceError

PYTHON = "python"
NUMPY = "numpy"
_LEAST_LETTERS = 20
# Modules that do something when they are imported, or that are no library.
_LEFT_OUT_NAMES = (
    "antigravity this idlelib lib2to3 test turtledemo turtle tkinter pydoc_data ensurepip"
    " venv distutils imp asyncore asynchat smtpd nt ntpath posixpath genericpath posix"
    " sre_compile sre_constants sre_parse opcode symtable xxlimited xxsubtype nis ossaudiodev"
    " spwd crypt winreg winsound msvcrt msilib"
)
_LEFT_OUT = frozenset(_LEFT_OUT_NAMES.split())
_NUMPY_MODULES_NAMES = (
    "numpy numpy.linalg numpy.fft numpy.random numpy.ma numpy.polynomial"
    " numpy.polynomial.polynomial numpy.polynomial.chebyshev numpy.polynomial.hermite"
    " numpy.polynomial.hermite_e numpy.polynomial.laguerre numpy.polynomial.legendre numpy.lib"
    " numpy.lib.stride_tricks numpy.lib.format numpy.lib.scimath numpy.lib.mixins numpy.char"
    " numpy.strings numpy.rec numpy.testing numpy.ctypeslib numpy.dtypes numpy.exceptions"
    " numpy.typing"
)
_NUMPY_MODULES = tuple(_NUMPY_MODULES_NAMES.split())


@dataclasses.dataclass(frozen=True)
class _Named:
    """A documented object under one of its names.

    Args:
        own: whether the object says that it belongs where the name has it.
    """

    package: str
    name: str
    text: str
    identity: object
    own: bool

    @property
    def preference(self) -> tuple[int, bool, str]:
        """Which of several names is the one: the shortest, then the object's own."""
        return (self.name.count("."), not self.own, self.name)


def docstrings(
    packages: Sequence[str] = (PYTHON, NUMPY),
    modules: Sequence[str] = (),
    limit: int | None = None,
) -> list[Document]:
    """Return the documentation strings of packages, each text once, in a stable order.

    A document's URI is "doc://python/json.dumps" or "doc://numpy/numpy.linalg.norm". Modules come
    first, then what is in them, then the methods of their classes, so that a few of them are a
    fair share. Importing the standard library takes some seconds.

    Args:
        packages: PYTHON, NUMPY or both.
        modules: only what is in these; empty for all.
        limit: how many at most.

    Raises:
        SourceError: a package or module is unknown or not installed.
    """
    unknown = sorted(set(packages) - {PYTHON, NUMPY})
    if unknown or not packages:
        raise SourceError(f"packages are {PYTHON!r} and {NUMPY!r}, not {unknown}")
    found = [Document(**fields) for fields in _in_own_process(packages, modules)]
    if not found:
        raise SourceError(f"nothing is documented in {', '.join(modules or packages)}")
    return found[:limit]


def _in_own_process(packages: Sequence[str], modules: Sequence[str]) -> list[dict[str, Any]]:
    """Collect in a process that has imported nothing else.

    Others replace functions of the standard library by their own, and importing all of it is nothing
    to do to a process that has other work.
    """
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from knowledge.corpus import _print; _print(sys.argv[2:])"
    )
    asked = json.dumps([list(packages), list(modules)])
    root = str(Path(__file__).resolve().parents[1])
    # -I: the directory that this process happens to be in holds no part of the library.
    command = [sys.executable, "-I", "-c", program, root, asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SourceError(f"the documentation cannot be collected: {done.stderr[-500:]}")
    collected: list[dict[str, Any]] = json.loads(done.stdout.rsplit("\n", 2)[-2])
    return collected


def _print(arguments: Sequence[str]) -> None:
    packages, modules = json.loads(arguments[0])
    print("\n" + json.dumps(_collect(packages, modules)))


def _collect(packages: Sequence[str], modules: Sequence[str]) -> list[dict[str, Any]]:
    found: list[_Named] = []
    for package in dict.fromkeys(packages):
        for module in _modules(package, modules):
            found += _documented(package, module)
    chosen = _each_once(found)
    chosen.sort(key=lambda named: (_depth(named), named.package, named.name))
    return [
        {
            "uri": f"doc://{named.package}/{named.name}",
            "title": named.name,
            "text": named.text,
            "metadata": {"package": named.package, "module": _module_of(named)},
        }
        for named in chosen
    ]


def _modules(package: str, wanted: Sequence[str]) -> Iterator[types.ModuleType]:
    names = list(_NUMPY_MODULES) if package == NUMPY else sorted(_standard_modules())
    if wanted:
        names = [name for name in names if name in wanted]
    for name in names:
        module = _import(name)
        if module is not None:
            yield module


def _standard_modules() -> set[str]:
    top = {
        name
        for name in sys.stdlib_module_names
        if not name.startswith("_") and name not in _LEFT_OUT
    }
    found = set(top) | {"os.path"}
    for name in sorted(top):
        module = _import(name)
        if module is not None and hasattr(module, "__path__"):
            found |= set(_below(module))
    return found


def _below(package: types.ModuleType) -> Iterator[str]:
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        last = info.name.rsplit(".", 1)[-1]
        if last.startswith("_") or last in ("test", "tests", "windows_events", "windows_utils"):
            continue
        yield info.name
        if info.ispkg:
            module = _import(info.name)
            if module is not None:
                yield from _below(module)


def _import(name: str) -> types.ModuleType | None:
    """Import a module quietly; None where this machine has not all that it needs."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except (ImportError, OSError, AttributeError):
        return None


def _documented(package: str, module: types.ModuleType) -> Iterator[_Named]:
    # os.path calls itself posixpath; its name is what people use.
    place = "os.path" if module.__name__ == "posixpath" else module.__name__
    yield from _named(package, place, module, own=True)
    for name in _public_names(module):
        value = _get(module, name)
        if isinstance(value, types.ModuleType) or not _is_documentable(value):
            continue
        origin = getattr(value, "__module__", None)
        own = origin in (module.__name__, f"_{module.__name__}")
        yield from _named(package, f"{place}.{name}", value, own=own)
        if inspect.isclass(value):
            yield from _members(package, f"{place}.{name}", value, own)


def _public_names(module: types.ModuleType) -> Iterable[str]:
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(name for name in set(map(str, listed)) if not name.startswith("_"))
    homes = (module.__name__, f"_{module.__name__}")
    return sorted(
        name
        for name in dir(module)
        if not name.startswith("_") and getattr(_get(module, name), "__module__", None) in homes
    )


def _members(package: str, place: str, cls: type, own: bool) -> Iterator[_Named]:
    for name, value in sorted(vars(cls).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if inspect.isroutine(value) or isinstance(value, property):
            yield from _named(package, f"{place}.{name}", value, own=own)


def _named(package: str, name: str, value: Any, *, own: bool) -> Iterator[_Named]:
    text = _docstring(value)
    if len(text) >= _LEAST_LETTERS and not text.startswith("Alias for field number"):
        identity = getattr(value, "__func__", value)
        yield _Named(package, name, text, identity, own)


def _is_documentable(value: Any) -> bool:
    # Of other objects, the documentation is their class's.
    return inspect.isclass(value) or inspect.isroutine(value) or _is_ufunc(value)


def _is_ufunc(value: Any) -> bool:
    return type(value).__name__ in ("ufunc", "_ArrayFunctionDispatcher")


def _docstring(value: Any) -> str:
    text = getattr(value, "__doc__", None)
    return clean(inspect.cleandoc(text)).strip() if isinstance(text, str) else ""


def _get(module: types.ModuleType, name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(module, name)
    except Exception:
        # A name that is announced, but not there on this platform or version.
        return None


def _each_once(found: Sequence[_Named]) -> list[_Named]:
    """Return each object under its best name, and of equal texts the one with the best name."""
    objects: set[int] = set()
    names: set[str] = set()
    by_text: dict[str, _Named] = {}
    for named in sorted(found, key=lambda named: named.preference):
        if id(named.identity) not in objects and named.name not in names:
            objects.add(id(named.identity))
            names.add(named.name)
            by_text.setdefault(" ".join(named.text.split()), named)
    return list(by_text.values())


def _depth(named: _Named) -> int:
    """Return 0 for a module, 1 for what is in one, 2 for what is in a class."""
    if isinstance(named.identity, types.ModuleType):
        return 0
    return named.name.count(".") - _module_of(named).count(".")


def _module_of(named: _Named) -> str:
    """Return the longest beginning of the name that is a module's."""
    parts = named.name.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in sys.modules:
            return name
    return parts[0]


# --- Made-up pages

_PLACES_NAMES = "Arvo Belmar Corvin Dunmore Elsby Farholt Gantry Hollin Istra Jorvel Kestra Lomond"
_PLACES = _PLACES_NAMES.split()
_THINGS_NAMES = "lighthouse bridge observatory library mill harbour railway garden tower canal"
_THINGS = _THINGS_NAMES.split()
_PEOPLE_NAMES = "Ada Boris Clara Dmitri Elena Felix Greta Hugo Ines Jonas Katya Lars Mira Nils"
_PEOPLE = _PEOPLE_NAMES.split()
_TRADES = ("an engineer", "a botanist", "a clockmaker", "a captain", "a printer", "a surveyor")


@dataclasses.dataclass(frozen=True)
class CrawlFact:
    """What a made-up page says that no other does."""

    question: str
    answer: str
    sentence: str


def crawl_fact(index: int, seed: int = 0) -> CrawlFact:
    """Return what page number `index` says."""
    chance = random.Random(f"fact:{seed}:{index}")
    place = f"{chance.choice(_PLACES)}-{index}"
    thing, person = chance.choice(_THINGS), chance.choice(_PEOPLE)
    year = str(chance.randrange(1700, 1950))
    sentence = f"The {thing} of {place} was built in {year} by {person}, {chance.choice(_TRADES)}."
    return CrawlFact(f"When was the {thing} of {place} built?", year, sentence)


def crawl_page(index: int, size_bytes: int = 1_000_000, seed: int = 0) -> tuple[str, str]:
    """Return a made-up web page: a little text in much markup, scripts and pictures.

    Args:
        index: of the page; the same index and seed, the same page.
        size_bytes: of the page, within a few hundred bytes; not less than its text takes.

    Returns:
        Its URI and its HTML.
    """
    chance = random.Random(f"page:{seed}:{index}")
    fact = crawl_fact(index, seed)
    title = fact.question[len("When was the ") : -len(" built?")]
    text = f"<h1>{title}</h1>\n<p>{fact.sentence}</p>\n<p>{_filler(chance)}</p>"
    begin = (
        f'<!doctype html>\n<html lang="en"><head><title>{title}</title></head>\n<body>\n{text}\n'
    )
    end = "</body></html>\n"
    left = size_bytes - len(begin) - len(end)
    parts = [begin]
    while left > 0:
        picture = base64.b64encode(chance.randbytes(min(48_000, max(1, left * 3 // 4)))).decode()
        part = f'<script>load("{picture}");</script>\n'
        parts.append(part)
        left -= len(part)
    return f"https://crawl.example/{seed}/{index}", "".join([*parts, end])


def crawl_pages_for(bytes_to_overrun: int, times: float = 3.0, page_bytes: int = 1_000_000) -> int:
    """Return how many pages hold several times what an object store of a size does."""
    return max(1, round(bytes_to_overrun * times / page_bytes))


def _filler(chance: random.Random) -> str:
    visitors, hours = chance.randrange(100, 9000), chance.randrange(4, 12)
    return (
        f"It has about {visitors} visitors a year and is open {hours} hours a day."
        f" {chance.choice(_PEOPLE)} looks after it."
    )
