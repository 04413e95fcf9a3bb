"""Checks that a custom wheel has every upstream file unchanged, and lists what was added or changed.

The strict check, with the official wheel at hand, is in `mantaray.wheel.strict`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import parse_tag

from mantaray.wheel.archive import WheelReader
from mantaray.wheel.download import download_mantaray
from mantaray.wheel.errors import WheelError
from mantaray.wheel.layout import REWRITTEN, UPSTREAM_RECORD, is_ours, split_version
from mantaray.wheel.metadata import header
from mantaray.wheel.record import Entry, parse_record
from mantaray.wheel.strict import Comparison, compare


@dataclass(frozen=True)
class Verification:
    """The findings in a custom wheel. Paths are as in the wheel.

    Attributes:
        wheel: its file name.
        ray_version: of the Ray in it.
        mantaray_version: of the Mantaray in it.
        reference: what upstream's files were compared with, in words.
        unchanged: how many of upstream's files are unchanged.
        rewritten: metadata files that differ from upstream's as expected.
        added: files that Mantaray adds.
        changed: upstream files that differ.
        missing: upstream files that are missing.
        unexpected: files that neither upstream nor Mantaray put there.
        problems: everything else that is wrong, one sentence for each.
    """

    wheel: str
    ray_version: str
    mantaray_version: str
    reference: str
    unchanged: int
    rewritten: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.changed or self.missing or self.unexpected or self.problems)


def verify_wheel(
    path: Path,
    against: Path | None = None,
    mantaray: Path | None = None,
    relay: Path | None = None,
) -> Verification:
    """Check a custom wheel.

    With the official wheel, every file, every line of metadata and every permission has to be what
    `mantaray wheel` makes of the official wheel and of the Mantaray release that the custom wheel names.
    Without it, only upstream's files are checked, by the RECORD of upstream that a custom wheel keeps.
    A person who changed the wheel may have changed that RECORD too.

    Args:
        path: the custom wheel.
        against: the official wheel it was made from.
        mantaray: the `ray-mantaray` wheel of that release. Left out, pip downloads it if `against` is
            given.
        relay: the `ray-mantaray-relay` wheel of that release, if the custom wheel holds its relay.

    Raises:
        WheelError: a file cannot be read or is damaged, or is not the kind of wheel meant.
    """
    with WheelReader(path) as wheel:
        versions = split_version(wheel.version)
        kept_name = f"{wheel.dist_info}/{UPSTREAM_RECORD}"
        if wheel.name != "ray" or versions is None or kept_name not in wheel:
            raise WheelError(
                f"{path.name} is not a custom wheel made by `mantaray wheel`",
                "give a file as ray-2.60.0+mantaray.VERSION-….whl",
            )
        kept = wheel.read(kept_name)
        if against is None:
            upstream = parse_record(kept, f"Ray {versions[0]} kept in {path.name}")
            return _compare(wheel, versions, upstream)
        with WheelReader(against) as official:
            _require_sound_official(official, versions[0])
            with _release(mantaray, versions[1]) as release:
                found = compare(wheel, official, release, relay, versions[1])
                names = [file.name for file in (official.path, release, relay) if file is not None]
                return _verification(wheel, versions, found, " and ".join(names))


def _require_sound_official(official: WheelReader, ray_version: str) -> None:
    if official.name != "ray" or str(official.version) != ray_version:
        raise WheelError(
            f"{official.path.name} is not the official wheel of Ray {ray_version}",
            f"give the official ray-{ray_version}-….whl with --against",
        )
    official.require_complete()
    for name in official.record:
        official.read_recorded(name)


@contextmanager
def _release(given: Path | None, version: str) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="mantaray-wheel-") as scratch:
        yield download_mantaray(version, Path(scratch))


def _verification(
    wheel: WheelReader, versions: tuple[str, str], found: Comparison, reference: str
) -> Verification:
    wrong = [
        f"{name} is not what the wheel's own RECORD says"
        for name in wheel.names()
        if name in wheel.record and not wheel.record[name].matches(wheel.read(name))
    ]
    return Verification(
        wheel=wheel.path.name,
        ray_version=versions[0],
        mantaray_version=versions[1],
        reference=reference,
        unchanged=found.unchanged,
        rewritten=tuple(sorted(found.rewritten)),
        added=tuple(sorted(found.added)),
        changed=tuple(sorted(found.changed)),
        missing=tuple(sorted(found.missing)),
        unexpected=tuple(found.unexpected),
        problems=(*found.problems, *wrong),
    )


def _compare(
    wheel: WheelReader,
    versions: tuple[str, str],
    upstream: Mapping[str, Entry],
) -> Verification:
    """Put every file of the wheel and of upstream into one of the report's groups."""
    expected = {_inside_name(name, wheel): entry for name, entry in upstream.items()}
    rewritable = {f"{wheel.dist_info}/{name}" for name in REWRITTEN}
    own_record = f"{wheel.dist_info}/RECORD"
    found: dict[str, list[str]] = {
        group: [] for group in ("unchanged", "rewritten", "added", "changed", "unexpected")
    }
    problems = _metadata_problems(wheel)
    for name in wheel.names():
        data = wheel.read(name)
        found[_group(name, data, expected.get(name), rewritable, wheel.dist_info)].append(name)
        recorded = wheel.record.get(name)
        if name != own_record and (recorded is None or not recorded.matches(data)):
            problems.append(f"{name} is not what the wheel's own RECORD says")
    problems += [f"{name} is in RECORD and not in the wheel" for name in wheel.absent()]
    return Verification(
        wheel=wheel.path.name,
        ray_version=versions[0],
        mantaray_version=versions[1],
        reference="upstream's RECORD kept in the wheel; Mantaray's own files with nothing",
        unchanged=len(found["unchanged"]),
        rewritten=tuple(found["rewritten"]),
        added=tuple(found["added"]),
        changed=tuple(found["changed"]),
        missing=tuple(sorted(name for name in expected if name not in wheel)),
        unexpected=tuple(found["unexpected"]),
        problems=tuple(problems),
    )


def _group(
    name: str, data: bytes, upstream: Entry | None, rewritable: set[str], dist_info: str
) -> str:
    if upstream is not None and upstream.matches(data):
        return "unchanged"
    if name in rewritable:
        return "rewritten"
    if upstream is not None:
        return "changed"
    return "added" if is_ours(name) or name == f"{dist_info}/{UPSTREAM_RECORD}" else "unexpected"


def _inside_name(upstream_name: str, wheel: WheelReader) -> str:
    """Return the path of an upstream file in the custom wheel, whose .dist-info has another name."""
    top, slash, rest = upstream_name.partition("/")
    return f"{wheel.dist_info}/{rest}" if slash and top.endswith(".dist-info") else upstream_name


def _metadata_problems(wheel: WheelReader) -> list[str]:
    """Return a sentence for each disagreement of the metadata with the file name."""
    problems = []
    metadata = wheel.read(f"{wheel.dist_info}/METADATA")
    if header(metadata, "Version") != [str(wheel.version)]:
        problems.append("METADATA has another version than the file name")
    if wheel.dist_info != f"ray-{wheel.version}.dist-info":
        problems.append(f"{wheel.dist_info} is not named after the file name's version")
    lines = header(wheel.read(f"{wheel.dist_info}/WHEEL"), "Tag")
    if {tag for line in lines for tag in parse_tag(line)} != set(wheel.tags):
        problems.append("WHEEL has other tags than the file name")
    return problems
