"""A picture of the holders of an object: a description for Graphviz, and the SVG that Graphviz makes.

Part of `mantaray.refs`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mantaray.refs import why
from mantaray.refs.cluster import Process

_TIMEOUT_S = 60.0
_WIDEST = 60


class NoGraphvizError(RuntimeError):
    """Graphviz cannot make the picture; the message says why."""


def dot(found: why.Why) -> str:
    """Return the description of the picture, in Graphviz's language.

    The object is at the right. An arrow leads to it from each process that uses it and from each object
    that contains it. If paths were asked for, each path stands to the left of its process.

    Args:
        found: the holders of the object.
    """
    lines = [
        "digraph holders {",
        "  rankdir=LR;",
        "  node [shape=box, fontname=Helvetica, fontsize=10];",
        "  edge [fontname=Helvetica, fontsize=9];",
        f"  object [shape=ellipse, label={_quoted(_object_label(found))}];",
    ]
    for number, (process, held) in enumerate(found.holders):
        style = ", style=bold" if held.owned else ""
        lines.append(f"  p{number} [label={_quoted(_process_label(process, held.owned))}{style}];")
        reasons = why.reasons(held) or [why.WAITS if held.owned else why.NO_USE]
        label = _quoted("\n".join(map(_folded, reasons)))
        lines.append(f"  p{number} -> object [label={label}];")
        lines += _path_lines(number, found, process)
        for outer in held.contained_in:
            lines.append(f"  o{outer} [shape=ellipse, label={_quoted(_folded(outer))}];")
            lines.append(f'  o{outer} -> object [style=dashed, label="contains"];')
    for number, process in enumerate(found.silent):
        label = _quoted(f"{process}\nnot asked: {process.problem}")
        lines.append(f"  s{number} [style=dotted, label={label}];")
    return "\n".join([*lines, "}", ""])


def write_svg(found: why.Why, file: Path) -> None:
    """Write the picture to a file.

    Args:
        found: the holders of the object.
        file: the SVG file.

    Raises:
        NoGraphvizError: Graphviz is not installed, or refuses.
        OSError: the file cannot be written.
    """
    program = shutil.which("dot")
    if program is None:
        raise NoGraphvizError("the program dot of Graphviz is not installed")
    try:
        done = subprocess.run(
            [program, "-Tsvg"],
            input=dot(found).encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NoGraphvizError(f"{program} made no picture within {_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        raise NoGraphvizError(f"{program} failed: {done.stderr.decode(errors='replace').strip()}")
    file.write_bytes(done.stdout)


def _path_lines(number: int, found: why.Why, process: Process) -> Iterator[str]:
    told = found.paths.get(process.worker_id)
    if told is None:
        return
    for place, path in enumerate(told.paths):
        label = _quoted(_folded(path))
        yield f"  p{number}_{place} [shape=note, label={label}]; p{number}_{place} -> p{number};"


def _object_label(found: why.Why) -> str:
    size = "size not known" if found.size_bytes is None else f"{found.size_bytes:,} bytes"
    return f"object\n{_folded(found.object_id)}\n{size}"


def _process_label(process: Process, owned: bool) -> str:
    return f"{process}\n(owner)" if owned else str(process)


def _folded(text: str) -> str:
    """Return a text in lines that fit the picture."""
    if " " not in text:
        return "\n".join(text[at : at + _WIDEST] for at in range(0, len(text), _WIDEST))
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= _WIDEST:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
