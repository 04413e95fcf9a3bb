"""Edits the metadata files of a wheel as text, so that everything else in them stays as it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from email.parser import HeaderParser

CONSOLE_SCRIPT = "mantaray = mantaray.cli.main:main"
_SCRIPTS = "[console_scripts]"


def header(text: bytes, name: str) -> list[str]:
    """Return every value that a header of METADATA or WHEEL has, in order."""
    message = HeaderParser().parsestr(text.decode("utf-8"))
    return [str(value) for value in message.get_all(name, [])]


def edit_metadata(text: bytes, version: str, requirements: Iterable[str]) -> bytes:
    """Return a METADATA with another version and further requirements.

    Args:
        text: upstream's METADATA.
        version: the new version.
        requirements: as Requires-Dist has them; one that is there already is not repeated.
    """
    head, _, body = text.decode("utf-8").partition("\n\n")
    head = head.rstrip("\n")
    lines = [f"Version: {version}" if _is(line, "Version") else line for line in head.split("\n")]
    present = {line.partition(":")[2].strip() for line in lines if _is(line, "Requires-Dist")}
    new = [f"Requires-Dist: {wanted}" for wanted in requirements if wanted not in present]
    # Before the extras, where the requirements without a condition stand.
    extras = [at for at, line in enumerate(lines) if _is(line, "Provides-Extra")]
    at = extras[0] if extras else len(lines)
    return ("\n".join([*lines[:at], *new, *lines[at:]]) + "\n\n" + body).encode("utf-8")


def _is(line: str, name: str) -> bool:
    return line.partition(":")[0].lower() == name.lower()


def edit_wheel(text: bytes, tags: Sequence[str], generator: str) -> bytes:
    """Return a WHEEL with other tags and another generator.

    Args:
        text: upstream's WHEEL.
        tags: expanded, one each, as "cp311-cp311-manylinux_2_17_x86_64".
        generator: who made the wheel, with version.
    """
    kept = []
    for line in text.decode("utf-8").rstrip("\n").split("\n"):
        if _is(line, "Generator"):
            kept.append(f"Generator: {generator}")
        elif not _is(line, "Tag"):
            kept.append(line)
    return "\n".join([*kept, *(f"Tag: {tag}" for tag in tags), ""]).encode("utf-8")


def edit_entry_points(text: bytes) -> bytes:
    """Return an entry_points.txt with the `mantaray` command, upstream's entries kept.

    Args:
        text: upstream's; empty when it has none.
    """
    lines = text.decode("utf-8").rstrip("\n").split("\n") if text.strip() else []
    if _SCRIPTS not in lines:
        lines += ["", _SCRIPTS] if lines else [_SCRIPTS]
    lines.insert(lines.index(_SCRIPTS) + 1, CONSOLE_SCRIPT)
    return ("\n".join(lines) + "\n").encode("utf-8")


def edit_top_level(text: bytes) -> bytes:
    """Return a top_level.txt that names `mantaray` too."""
    names = {*text.decode("utf-8").split(), "mantaray"}
    return "".join(f"{name}\n" for name in sorted(names)).encode("utf-8")
