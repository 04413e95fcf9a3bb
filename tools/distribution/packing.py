"""Writing the wheels themselves: reproducible to the byte, the same files for every target but the module.

setuptools makes one wheel, for the interpreter at hand; it is the template of all others, which
differ from it in the extension module and in the tags.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from mantaray.wheel.archive import WheelReader, WheelWriter
from mantaray.wheel.metadata import edit_wheel
from mantaray.wheel.record import entry_of, format_record
from packaging.tags import parse_tag

RELAY = "ray_mantaray_relay"
_PROGRAM = "mantaray/bin/mantaray-relay"
_MODULE = "mantaray/_native."
_GENERATOR = "mantaray tools/dist"
_EXECUTABLE = stat.S_IFREG | 0o755
_PLAIN = stat.S_IFREG | 0o644

_RELAY_METADATA = """\
Metadata-Version: 2.4
Name: ray-mantaray-relay
Version: {version}
Summary: The relay of Mantaray: many raylets share one resource-view stream to the GCS
License-Expression: Apache-2.0
License-File: LICENSE
License-File: NOTICE
Requires-Python: >=3.10
Requires-Dist: ray-mantaray=={version}

The program that `mantaray relay` runs. Install it with `pip install 'ray-mantaray[relay]'`.
"""
_RELAY_WHEEL = "Wheel-Version: 1.0\nGenerator: {generator}\nRoot-Is-Purelib: false\n{tags}"


def retag(template: Path, module: Path, python: str, machine: str, platform: str) -> Path:
    """Write a wheel for another target beside the template and return it.

    Args:
        template: a wheel for any target.
        module: the extension module for the target.
        python: its tag, "cp310".
        machine: "x86_64" or "aarch64".
        platform: its tag; several joined by dots.

    Raises:
        mantaray.wheel.WheelError: the template is damaged.
        OSError: the wheel cannot be written.
    """
    tag = f"{python}-{python}-{platform}"
    digits = python.removeprefix("cp")
    name = f"{_MODULE}cpython-{digits}-{machine}-linux-gnu.so"
    with WheelReader(template) as wheel:
        files = {
            each: (wheel.read_recorded(each), wheel.mode(each))
            for each in wheel.names()
            if not each.startswith(_MODULE + "cpython-") and not each.endswith("/RECORD")
        }
        files[name] = (module.read_bytes(), _EXECUTABLE)
        info = f"{wheel.dist_info}/WHEEL"
        text = edit_wheel(files[info][0], _each(tag), _GENERATOR)
        files[info] = (text, files[info][1])
        target = template.with_name(f"{wheel.dist_info.removesuffix('.dist-info')}-{tag}.whl")
        dist_info = wheel.dist_info
    _write(target, dist_info, files)
    return target


def relay_wheel(
    program: Path, version: str, platform: str, papers: Iterable[Path], out: Path
) -> Path:
    """Write the wheel that holds the relay's program and return it.

    The program lies where `mantaray relay` looks for it, in the package's directory.

    Args:
        program: the program.
        version: of Mantaray.
        platform: the tag; several joined by dots.
        papers: licence and notices.
        out: the directory for it.

    Raises:
        OSError: it cannot be written.
    """
    tag = f"py3-none-{platform}"
    info = f"{RELAY}-{version}.dist-info"
    tags = "".join(f"Tag: {each}\n" for each in _each(tag))
    files = {
        _PROGRAM: (program.read_bytes(), _EXECUTABLE),
        f"{info}/METADATA": (_RELAY_METADATA.format(version=version).encode(), _PLAIN),
        f"{info}/WHEEL": (_RELAY_WHEEL.format(generator=_GENERATOR, tags=tags).encode(), _PLAIN),
    }
    for paper in papers:
        files[f"{info}/licenses/{paper.name}"] = (paper.read_bytes(), _PLAIN)
    target = out / f"{RELAY}-{version}-{tag}.whl"
    _write(target, info, files)
    return target


def _each(tag: str) -> list[str]:
    return sorted(str(each) for each in parse_tag(tag))


def _write(target: Path, dist_info: str, files: dict[str, tuple[bytes, int]]) -> None:
    names = sorted(files, key=lambda name: (name.startswith(dist_info), name))
    record = [(name, entry_of(files[name][0])) for name in names]
    own = f"{dist_info}/RECORD"
    temporary = target.with_suffix(".tmp")
    with temporary.open("wb") as file, WheelWriter(file) as writer:
        for name in names:
            writer.add(name, *files[name])
        writer.add(own, format_record(record, own), _PLAIN)
    temporary.replace(target)
