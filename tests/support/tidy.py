"""The house rules as checks of source text: what is wrong, where, and what to do instead.

A rule looks at one file at a time and knows only its path in the repository and its text, so that a
planted violation tests it as well as a real one. tests/unit/test_tidy.py runs them.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# (line, what is wrong)
Problem = tuple[int, str]

PACKAGE = PurePosixPath("python/mantaray")
SOURCES = PurePosixPath("src/mantaray")
CORES = ("spill", "syncer", "refcount")
# Which directories of src/mantaray a directory may include headers of, besides its own.
INCLUDABLE = {
    "common": (),
    "proto": (),
    "spill": ("common", "proto"),
    "syncer": ("common", "proto"),
    "refcount": ("common", "proto"),
    # How repeated notices are counted and logged.
    "interpose": ("common", "refcount"),
    "relay": ("common", "syncer"),
    "sim": ("common", "proto", *CORES),
    "python": ("common", "proto", "sim", "interpose", *CORES),
}
COMMENT_SIGNS = {
    **dict.fromkeys((".cc", ".h", ".proto"), "//"),
    **dict.fromkeys((".bazel", ".ini", ".toml", ".sh", ".yaml", ".in", ".yml", ".txt", ""), "#"),
    **dict.fromkeys((".py", ".pyi", ".bzl"), '"""'),
}
# Files without a suffix that are no program of ours, or whose format has no comments.
NO_OPENING = {"LICENSE", "NOTICE", ".gitignore", ".clang-format", ".clang-tidy"}
SPILL_NAMES = re.compile(r"ray_spilled_objects|^fused-|^segment-|\.damaged$|^\.tmp-|^alive$")


@dataclass(frozen=True)
class Finding:
    """A place that breaks a rule."""

    path: PurePosixPath
    line: int
    problem: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}; {self.instead}"


@dataclass(frozen=True)
class Rule:
    """One house rule.

    Attributes:
        name: of the rule.
        applies: whether a file is looked at, from its path.
        check: yields the problems of a file, from its path and its text.
        instead: what to do about any of them.
    """

    name: str
    applies: Callable[[PurePosixPath], bool]
    check: Callable[[PurePosixPath, str], Iterator[Problem]]
    instead: str

    def findings(self, path: PurePosixPath, text: str) -> list[Finding]:
        """Return what breaks this rule in one file."""
        if not self.applies(path):
            return []
        found = self.check(path, text)
        return [Finding(path, line, problem, self.instead) for line, problem in found]


def repository_files(root: Path) -> list[PurePosixPath]:
    """Return the files that are, or would be, committed.

    Raises:
        RuntimeError: git does not answer.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`git ls-files` failed: {done.stderr.strip()}")
    names = {PurePosixPath(name) for name in done.stdout.split("\0") if name}
    return sorted(name for name in names if (root / name).is_file())


def check_repository(root: Path) -> list[Finding]:
    """Return everything in the repository that breaks a rule."""
    findings: list[Finding] = []
    for path in repository_files(root):
        content = (root / path).read_bytes()
        findings += check_bytes(path, content)
    return findings


def check_bytes(path: PurePosixPath, content: bytes) -> list[Finding]:
    """Return what breaks a rule in one file; a binary is a finding of its own."""
    if b"\0" in content:
        if path.suffix == ".png" and path.parts[0] == "docs":
            return []
        return [Finding(path, 1, "binary file", "keep only text (and docs/*.png); make the rest")]
    text = content.decode("utf-8", errors="replace")
    return [finding for rule in RULES for finding in rule.findings(path, text)]


# --- Python: who imports whom


def _imports(path: PurePosixPath, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module) of every import; `from a import b` also as `a.b`."""
    package = path.with_suffix("").parts[1:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def _is_package(path: PurePosixPath) -> bool:
    return path.suffix == ".py" and path.is_relative_to(PACKAGE)


def _foreign_imports(path: PurePosixPath, text: str) -> Iterator[Problem]:
    parts = path.relative_to(PACKAGE).parts
    own = parts[0] if len(parts) > 1 else None
    if own == "cli":
        return
    for line, module in _imports(path, ast.parse(text)):
        match = re.match(r"mantaray\.(\w+)", module)
        other = match[1] if match else None
        # A module beside the packages (settings) is for everyone; only packages have a directory.
        if other is None or other == own or not (REPOSITORY / PACKAGE / other).is_dir():
            continue
        if other == "overlay" and own is not None:
            continue
        yield line, f"{own or path.name} imports mantaray.{other}"


def _imports_of_ray(path: PurePosixPath, text: str) -> Iterator[Problem]:
    yield from _module_level_ray(ast.parse(text).body)


def _module_level_ray(body: list[ast.stmt]) -> Iterator[Problem]:
    for node in body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            names = []
        if any(name == "ray" or name.startswith("ray.") for name in names):
            yield node.lineno, "imports ray when the module is imported"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        blocks = ("orelse",) if _is_type_checking(node) else ("body", "orelse", "finalbody")
        for block in blocks:
            yield from _module_level_ray(getattr(node, block, []))
        for handler in getattr(node, "handlers", []):
            yield from _module_level_ray(handler.body)


def _is_type_checking(node: ast.stmt) -> bool:
    names = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.If) and ast.unparse(node.test) in names


def _annotations_import(path: PurePosixPath, text: str) -> Iterator[Problem]:
    annotated = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.AnnAssign)
    first = next((node for node in ast.parse(text).body if isinstance(node, annotated)), None)
    if first and "from __future__ import annotations" not in text:
        yield first.lineno, "has no `from __future__ import annotations`"


_STARTS_PYTHON = re.compile(r"\bsys\s*\.\s*(?:_base_)?executable\b|[\"']-m[\"']")


def _python_by_hand(path: PurePosixPath, text: str) -> Iterator[Problem]:
    for line, code in enumerate(text.splitlines(), 1):
        match = _STARTS_PYTHON.search(code)
        if match:
            yield line, f"starts a Python by hand: `{match[0]}`"


# --- C++: who includes whom, and what a core may reach for


def _is_cpp(path: PurePosixPath) -> bool:
    return path.suffix in (".cc", ".h") and path.is_relative_to(SOURCES)


def _is_core(path: PurePosixPath) -> bool:
    if not _is_cpp(path) or path.relative_to(SOURCES).parts[0] not in CORES:
        return False
    at_the_edge = path.name.startswith("posix_")
    return not at_the_edge and not path.stem.endswith(("_test", "_bench", "_fuzz"))


def _code_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its // comment)."""
    for number, line in enumerate(text.splitlines(), 1):
        yield number, re.sub(r"(^|\s)//.*", "", line)


def _foreign_includes(path: PurePosixPath, text: str) -> Iterator[Problem]:
    own = path.relative_to(SOURCES).parts[0]
    for line, code in _code_lines(text):
        match = re.match(r'\s*#\s*include\s+["<]mantaray/(\w+)/', code)
        if match and match[1] != own and match[1] not in INCLUDABLE.get(own, ()):
            yield line, f"src/mantaray/{own} includes a header of {match[1]}"


def _python_includes(path: PurePosixPath, text: str) -> Iterator[Problem]:
    for line, code in _code_lines(text):
        if re.match(r'\s*#\s*include\s+["<](pybind11/|Python\.h)', code):
            yield line, "knows Python"


_REACHING = re.compile(
    r"#\s*include\s+<(?:thread|chrono|fstream|filesystem|unistd\.h|fcntl\.h|sys/(?!uio|types)\w+\.h|netinet/\w+\.h|"
    r"arpa/\w+\.h|netdb\.h|poll\.h|grpcpp/[\w.]+)>"
    r"|std::(?:this_thread|j?thread)\b"
    r"|_clock::now\s*\(|\babsl::(?:Now|SleepFor|GetCurrentTimeNanos)\s*\("
    r"|\b(?:clock_gettime|gettimeofday|usleep|nanosleep)\s*\(|\btime\s*\(\s*(?:nullptr|NULL|0)\s*\)"
)


def _reaching_out(path: PurePosixPath, text: str) -> Iterator[Problem]:
    for line, code in _code_lines(text):
        match = _REACHING.search(code)
        if match:
            yield line, f"a core reaches for the outside: `{match[0].strip()}`"


# --- Names of spill files


def _is_named_elsewhere(path: PurePosixPath) -> bool:
    if path.parent == SOURCES / "spill" and path.stem == "names":
        return False
    return (_is_cpp(path) and not path.stem.endswith(("_test", "_fuzz"))) or _is_package(path)


def _spill_names(path: PurePosixPath, text: str) -> Iterator[Problem]:
    literals = _python_literals(text) if path.suffix == ".py" else _cpp_literals(text)
    for line, literal in literals:
        if SPILL_NAMES.search(literal):
            yield line, f"spells out the name of a spill file, {literal!r}"


def _cpp_literals(text: str) -> Iterator[tuple[int, str]]:
    for line, code in _code_lines(text):
        if not code.lstrip().startswith("#"):
            for literal in re.findall(r'"((?:[^"\\]|\\.)*)"', code):
                yield line, literal


def _python_literals(text: str) -> Iterator[tuple[int, str]]:
    tree = ast.parse(text)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


# --- What is built upon Mantaray

EXAMPLE_NAMES = re.compile(
    r"\bexamples?/|\b(?:import|from) knowledge\.|\bknowledge[ _-](?:service|base)\b", re.I
)


# --- Every file


def _has_opening(path: PurePosixPath) -> bool:
    return path.name not in NO_OPENING and path.suffix in COMMENT_SIGNS


def _opening(path: PurePosixPath, text: str) -> Iterator[Problem]:
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("#!"):
        lines = lines[1:]
    signs = tuple(
        {COMMENT_SIGNS[path.suffix], "#"} if path.suffix == ".bzl" else {COMMENT_SIGNS[path.suffix]}
    )
    if not lines or not lines[0].startswith(signs):
        yield 1, "does not say what it is for"


_TODO = re.compile(r"\b(?:TODO|FIXME|XXX)\b")
_MACHINE_PATH = re.compile(r"(?<![\w.})\]])/(?:work|root|tmp/x|home/\w+)(?:/|(?![\w.-]))")
_REGISTRY = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|deb\.debian\.org|npmjs\.(?:org|com))\b")


def _matches(pattern: re.Pattern[str], problem: str) -> Callable[..., Iterator[Problem]]:
    def check(path: PurePosixPath, text: str) -> Iterator[Problem]:
        for number, line in enumerate(text.splitlines(), 1):
            match = pattern.search(line)
            if match:
                yield number, f"{problem} `{match[0]}`"

    return check


def _is_text(path: PurePosixPath) -> bool:
    return path.name not in ("LICENSE", "tidy.py", "test_tidy.py")


def _is_test(path: PurePosixPath) -> bool:
    if path.suffix == ".py":
        return "tests" in path.parts[:-1] and path.name.startswith("test_")
    return _is_cpp(path) and path.stem.endswith("_test")


def _assertions(path: PurePosixPath, text: str) -> Iterator[Problem]:
    sign = (
        r"\bassert\b|\bpytest\.(raises|fail|warns)\b"
        if path.suffix == ".py"
        else r"\b(EXPECT|ASSERT)_"
    )
    if not re.search(sign, text):
        yield 1, "tests nothing"


def _in_package(*names: str) -> Callable[[PurePosixPath], bool]:
    return lambda path: _is_package(path) and path.relative_to(PACKAGE).parts[0] in names


REPOSITORY = Path(__file__).resolve().parents[2]
RULES = (
    Rule(
        "imports",
        _is_package,
        _foreign_imports,
        "only cli knows the packages; share through settings or overlay, or register with overlay",
    ),
    Rule(
        "no-ray-at-import",
        _is_package,
        _imports_of_ray,
        "import it inside the function that needs it, or under TYPE_CHECKING",
    ),
    Rule("annotations", _is_package, _annotations_import, "put it below the docstring"),
    Rule(
        "helper-processes",
        lambda path: _is_package(path) and path != PACKAGE / "helpers.py",
        _python_by_hand,
        "use mantaray.helpers.python_command: `-m` would run modules of the working directory",
    ),
    Rule(
        "includes",
        _is_cpp,
        _foreign_includes,
        "move what is shared to src/mantaray/common, or hand it in through an interface",
    ),
    Rule(
        "no-python-in-cores",
        lambda path: _is_cpp(path) and path.relative_to(SOURCES).parts[0] != "python",
        _python_includes,
        "bindings belong in src/mantaray/python",
    ),
    Rule(
        "pure-cores",
        _is_core,
        _reaching_out,
        "take a clock, transport or file system as an argument; the real ones are in posix_*.cc",
    ),
    Rule(
        "spill-names",
        _is_named_elsewhere,
        _spill_names,
        "use the names of src/mantaray/spill/names.h; Python has them from mantaray._native.spill",
    ),
    Rule(
        "no-example",
        lambda path: path.is_relative_to(PACKAGE) or path.is_relative_to(SOURCES),
        _matches(EXAMPLE_NAMES, "knows of an example:"),
        "examples use the public face; what they need from inside belongs there",
    ),
    Rule(
        "opening",
        _has_opening,
        _opening,
        "open with a comment or docstring that says what the file is for",
    ),
    Rule(
        "todo",
        _is_text,
        _matches(_TODO, "leaves work behind:"),
        "do it, or write an issue and say here in plain words why it waits",
    ),
    Rule(
        "machine-paths",
        _is_text,
        _matches(_MACHINE_PATH, "names a path of one machine:"),
        "derive it from the file's own place, a setting or a temporary directory",
    ),
    Rule(
        "registry-hosts",
        _is_text,
        _matches(_REGISTRY, "names a registry's host:"),
        "let the package client use what it is configured for",
    ),
    Rule("assertions", _is_test, _assertions, "assert what must hold, or remove the file"),
)
