"""Compares a custom wheel, byte by byte, with what `mantaray wheel` makes of its two inputs.

The inputs are the official Ray wheel and the `ray-mantaray` wheel of the release that the custom wheel
names. Nothing in the custom wheel itself is trusted.
"""

from __future__ import annotations

import difflib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import mantaray
from mantaray.overlay.owners import DISTRIBUTION
from mantaray.wheel.archive import PLAIN_MODE, WheelReader, same_project
from mantaray.wheel.contents import unpack, unpacked_contents
from mantaray.wheel.custom import CustomWheel
from mantaray.wheel.errors import WheelError
from mantaray.wheel.layout import REWRITTEN, UPSTREAM_RECORD, is_ours
from mantaray.wheel.platform_tag import audited_tag, stricter

RELAY_DISTRIBUTION = f"{DISTRIBUTION}-relay"
# How many lines of a text a finding shows at most.
_MAX_LINES = 5


@dataclass
class Comparison:
    """What was found. Paths are as in the custom wheel; see `mantaray.wheel.verifier.Verification`."""

    unchanged: int = 0
    rewritten: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def compare(
    wheel: WheelReader, official: WheelReader, release: Path, relay: Path | None, version: str
) -> Comparison:
    """Compare a custom wheel with what its inputs make.

    Args:
        wheel: the custom wheel.
        official: the official wheel of the Ray in it, already checked.
        release: the `ray-mantaray` wheel.
        relay: the `ray-mantaray-relay` wheel, if the custom wheel contains its relay.
        version: of the Mantaray that the custom wheel names.

    Raises:
        WheelError: `release` or `relay` is not that Mantaray's wheel, or this Mantaray is another release,
            which may write metadata in another way.
    """
    if version != mantaray.__version__.replace("+", "."):
        raise WheelError(
            f"{wheel.path.name} was made by Mantaray {version}, and this is {mantaray.__version__}",
            f"verify it with that release: pip install {DISTRIBUTION}=={version}",
        )
    with tempfile.TemporaryDirectory(prefix="mantaray-verify-") as scratch:
        given = [(release, DISTRIBUTION, "--mantaray")]
        if relay is not None:
            given.append((relay, RELAY_DISTRIBUTION, "--relay"))
        for path, project, option in given:
            _unpack(path, project, option, Path(scratch))
        contents = unpacked_contents(Path(scratch), mantaray.__version__)
        platform = stricter(official.platform, audited_tag(contents.natives))
        return _compare(wheel, CustomWheel(official, contents, platform), official)


def _unpack(path: Path, project: str, option: str, directory: Path) -> None:
    version = mantaray.__version__
    with WheelReader(path) as reader:
        if not same_project(reader.name, project) or str(reader.version) != version:
            raise WheelError(
                f"{path.name} is not the wheel of {project} {version}",
                f"give {project.replace('-', '_')}-{version}-….whl with {option}",
            )
        reader.require_complete()
        unpack(reader, directory)


def _compare(wheel: WheelReader, custom: CustomWheel, official: WheelReader) -> Comparison:
    found = Comparison()
    if wheel.path.name != custom.file_name:
        found.problems.append(f"the file has to be called {custom.file_name}")
    rewritable = {f"{wheel.dist_info}/{name}" for name in REWRITTEN}
    kept = f"{wheel.dist_info}/{UPSTREAM_RECORD}"
    expected = set()
    for name, data, mode in custom.files():
        expected.add(name)
        if name not in wheel:
            found.missing.append(name)
            continue
        if wheel.mode(name) != (mode or PLAIN_MODE):
            found.problems.append(f"{name} has other permissions than it has to have")
        actual = wheel.read(name)
        ours = is_ours(name)
        if actual != data:
            if name == kept:
                found.problems.append(
                    f"{UPSTREAM_RECORD} is not the RECORD of {official.path.name}"
                )
            elif ours:
                found.problems.append(
                    f"{name} is not that of {DISTRIBUTION} {mantaray.__version__}"
                )
            elif name in rewritable:
                found.problems += _differing_lines(name, data, actual)
            else:
                found.changed.append(name)
        elif name in rewritable:
            found.rewritten.append(name)
        elif ours or name == kept:
            found.added.append(name)
        else:
            found.unchanged += 1
    found.unexpected += [name for name in wheel.names() if name not in expected]
    return found


def _differing_lines(name: str, expected: bytes, actual: bytes) -> list[str]:
    """Return a sentence for each surplus or missing line of a metadata file."""
    before, after = (data.decode("utf-8", "replace").splitlines() for data in (expected, actual))
    said = []
    for line in difflib.ndiff(before, after):
        if line[0] in "+-":
            what = "has the line" if line[0] == "+" else "lacks the line"
            said.append(f"{name} {what} {line[2:]!r}")
    # The lines may be equal although their ends are not.
    said = said or [f"{name} has other line ends than it has to have"]
    more = (
        [f"{name} differs in {len(said) - _MAX_LINES} more lines"] if len(said) > _MAX_LINES else []
    )
    return said[:_MAX_LINES] + more
