"""Makes a custom wheel: an official Ray wheel, every file of it byte for byte, and Mantaray.

Faults this survives, each with one clear error and no output file: an input that is damaged,
truncated, not what its RECORD says, not Ray, of another version, interpreter or platform, or
patched already; an output directory that cannot be written; a disk that fills up half way.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from packaging.tags import parse_tag, sys_tags
from packaging.version import InvalidVersion, Version

from mantaray.overlay.doctor import diagnose_wheel
from mantaray.overlay.known import why_unknown
from mantaray.overlay.patch import State
from mantaray.wheel.archive import WheelReader, same_project
from mantaray.wheel.contents import Contents, installed_contents
from mantaray.wheel.custom import CustomWheel
from mantaray.wheel.download import download_official
from mantaray.wheel.errors import WheelError
from mantaray.wheel.layout import is_ours
from mantaray.wheel.metadata import header
from mantaray.wheel.platform_tag import architecture, audited_tag, stricter

Say = Callable[[str], None]


def build_wheel(
    out_dir: Path,
    *,
    ray_version: str | None = None,
    source: Path | None = None,
    contents: Contents | None = None,
    allow_refused: bool = False,
    relay: bool = True,
    say: Say = lambda words: None,
) -> Path:
    """Make a custom wheel.

    Args:
        out_dir: where to put it; made when missing.
        ray_version: the Ray release; may be left out when `source` is given.
        source: the official wheel; left out, pip downloads it.
        contents: the Mantaray to put in; by default the running one.
        allow_refused: make the wheel even if patches would be refused on this Ray.
        relay: whether to include the relay of the running Mantaray, if it has one.
        say: called with a line for each step.

    Returns:
        The wheel. It replaces an earlier one of the same name.

    Raises:
        WheelError: an input is not fit, a tool is missing, or the wheel cannot be written.
    """
    if not sys.platform.startswith("linux"):
        raise WheelError(
            f"custom wheels are made on Linux; this is {sys.platform}", "run this on Linux"
        )
    if ray_version is not None:
        _require_known(ray_version)
    mantaray = contents or installed_contents(relay=relay)
    with _official(ray_version, source, say) as path, WheelReader(path) as official:
        _require_fit(official, ray_version)
        if not allow_refused:
            _require_patches(path, str(official.version))
        say(f"asking auditwheel what {len(mantaray.natives)} native part(s) need")
        platform = stricter(official.platform, audited_tag(mantaray.natives))
        custom = CustomWheel(official, mantaray, platform)
        say(f"writing {custom.file_name}")
        with _appearing_whole(out_dir, custom.file_name) as (file, target):
            custom.write(file)
        return target


@contextmanager
def _official(ray_version: str | None, source: Path | None, say: Say) -> Iterator[Path]:
    if source is not None:
        yield source
        return
    if ray_version is None:
        raise WheelError(
            "neither a Ray version nor an official wheel is given",
            "mantaray wheel --ray 2.60.0, or --from FILE.whl",
        )
    with tempfile.TemporaryDirectory(prefix="mantaray-wheel-") as scratch:
        say(f"getting the official wheel of Ray {ray_version} through pip")
        yield download_official(ray_version, Path(scratch))


def _require_known(ray_version: str) -> None:
    try:
        Version(ray_version)
    except InvalidVersion as error:
        raise WheelError(
            f"{ray_version!r} is not a version", "give a release of Ray, as --ray 2.60.0"
        ) from error
    why = why_unknown(ray_version)
    if why is not None:
        raise WheelError(why, "give one of those releases, or a newer Mantaray that knows this one")


def _require_fit(official: WheelReader, ray_version: str | None) -> None:
    """Check that a wheel is an official Ray for this interpreter that we can patch.

    Raises:
        WheelError: it is not.
    """
    file_name = official.path.name
    if official.name != "ray":
        raise WheelError(
            f"{file_name} is a wheel of {official.name}, not of Ray", "give an official Ray wheel"
        )
    _require_unpatched(official)
    if ray_version is not None and Version(ray_version) != official.version:
        raise WheelError(
            f"{file_name} is Ray {official.version}, but --ray asks for {ray_version}",
            "give one of the two, or a wheel of that version",
        )
    _require_known(str(official.version))
    _require_runs_here(official)
    _require_agreeing_metadata(official)
    official.require_complete()


def _require_patches(path: Path, ray_version: str) -> None:
    """Check that every patch of the running Mantaray would be attached to this Ray.

    Raises:
        WheelError: a patch would be refused.
    """
    refused = [each for each in diagnose_wheel(path).patches if each.status.state is State.REFUSED]
    if refused:
        names = ", ".join(each.status.name for each in refused)
        raise WheelError(
            f"on Ray {ray_version} these patches would be refused: {names} "
            f"({refused[0].status.name}: {refused[0].status.why})",
            f"use another Ray or a newer Mantaray; `mantaray doctor --against {path.name}` shows "
            "each patch, and --allow-refused makes the wheel without these patches",
        )


def _require_unpatched(official: WheelReader) -> None:
    patched = official.version.local is not None or any(map(is_ours, official.names()))
    if patched:
        raise WheelError(
            f"{official.path.name} is patched already; a custom wheel is made from an official one",
            f"leave out --from and ask for --ray {official.version.public}",
        )


def _require_runs_here(official: WheelReader) -> None:
    if not official.tags & frozenset(sys_tags()):
        here = f"cp{sys.version_info.major}{sys.version_info.minor} on {sysconfig.get_platform()}"
        raise WheelError(
            f"{official.path.name} is for {official.python} on {official.platform}; this is {here}",
            "run this with the interpreter and on the platform that the wheel is for",
        )


def _require_agreeing_metadata(official: WheelReader) -> None:
    """Check that the metadata inside agrees with the file name, which anyone may have changed.

    The platform is compared by machine only, because upstream's WHEEL files say linux where the file name
    says manylinux.
    """
    file_name = official.path.name
    metadata = official.read(f"{official.dist_info}/METADATA")
    inside = " ".join(header(metadata, "Name") + header(metadata, "Version"))
    name, _, version = inside.partition(" ")
    if not same_project(name, official.name) or version != str(official.version):
        raise WheelError(
            f"{file_name} holds {inside or 'no name and version'} by its METADATA",
            "a wheel keeps the name it was published under",
        )
    tags = header(official.read(f"{official.dist_info}/WHEEL"), "Tag")
    said = {_without_glibc(str(tag)) for text in tags for tag in parse_tag(text)}
    if said != {_without_glibc(str(tag)) for tag in official.tags}:
        raise WheelError(
            f"{file_name} is for {', '.join(tags) or 'nothing'} by its WHEEL file",
            "a wheel keeps the name it was published under",
        )


def _without_glibc(tag: str) -> tuple[str, str, str]:
    python, abi, platform = tag.split("-")
    return python, abi, architecture(platform)


@contextmanager
def _appearing_whole(out_dir: Path, file_name: str) -> Iterator[tuple[IO[bytes], Path]]:
    """Yield a file to write. It gets its name if all goes well, and is removed otherwise.

    Raises:
        WheelError: the directory cannot be written, or writing failed.
    """
    target = out_dir / file_name
    temporary: Path | None = None
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".mantaray-", suffix=".tmp", dir=out_dir)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file, target
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private. A wheel gets the permissions that the umask allows.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise WheelError(
            f"{target} cannot be written: {error.strerror}",
            "choose a directory with -o that can be written and has room",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
