"""Small official-looking wheels of Ray, and of Mantaray, made as real zip files."""

from __future__ import annotations

import base64
import hashlib
import sys
import sysconfig
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from mantaray.wheel.archive import WheelWriter
from mantaray.wheel.contents import Contents
from mantaray.wheel.record import entry_of, format_record

import mantaray

PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
MACHINE = sysconfig.get_platform().removeprefix("linux-")
ENTRY_POINTS = "[console_scripts]\nray = ray.scripts:main\nserve = ray.serve:cli\n"


def hashed(data: bytes) -> str:
    """Return a hash as RECORD has it, worked out without the code under test."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
    return "sha256=" + digest.rstrip("=")


@dataclass
class RayWheel:
    """An official Ray wheel to be written; a test changes what it wants to be wrong.

    Files keep the order they have here; RECORD is made from them unless given.
    """

    version: str = "2.60.0"
    name: str = "ray"
    python: str = PYTHON
    platform: str = f"manylinux2014_{MACHINE}"
    inner_tag: str = f"{PYTHON}-{PYTHON}-linux_{MACHINE}"
    inner_version: str = ""
    inner_name: str = ""
    file_name: str = ""
    record: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    date: tuple[int, int, int, int, int, int] = (2025, 7, 17, 12, 30, 2)
    reverse: bool = False

    def __post_init__(self) -> None:
        """Fill in files as Ray has them."""
        self.inner_name = self.inner_name or self.name
        self.inner_version = self.inner_version or self.version
        package = {
            "ray/__init__.py": f'__version__ = "{self.inner_version}"\n'.encode(),
            "ray/scripts.py": (
                b"import ray\n\n\ndef main():\n    print('ray, version', ray.__version__)\n"
            ),
            "ray/core/raylet": b"\x7fELF not really" + bytes(range(256)) * 40,
            "ray/core/data.bin": hashlib.sha512(b"incompressible").digest() * 200,
            f"{self.dist_info}/METADATA": self._metadata().encode(),
            f"{self.dist_info}/WHEEL": (
                "Wheel-Version: 1.0\nGenerator: setuptools (80.9.0)\nRoot-Is-Purelib: false\n"
                f"Tag: {self.inner_tag}\n\n"
            ).encode(),
            f"{self.dist_info}/entry_points.txt": ENTRY_POINTS.encode(),
            f"{self.dist_info}/top_level.txt": b"ray\n",
            f"{self.dist_info}/licenses/LICENSE.txt": b"Apache\n",
        }
        self.files = {**package, **self.files}
        self.modes = {"ray/core/raylet": 0o100755, **self.modes}

    @property
    def dist_info(self) -> str:
        """The metadata directory."""
        return f"{self.name}-{self.inner_version or self.version}.dist-info"

    def _metadata(self) -> str:
        return (
            f"Metadata-Version: 2.4\nName: {self.inner_name}\nVersion: {self.inner_version}\n"
            "Summary: synthetic\nRequires-Dist: packaging\nRequires-Dist: protobuf>=3.20.3\n"
            'Provides-Extra: serve\nRequires-Dist: starlette; extra == "serve"\n\n'
            "A body.\n\nVersion: of the body, not of the wheel\n"
        )

    def write(self, directory: Path) -> Path:
        """Write it and return the file."""
        directory.mkdir(parents=True, exist_ok=True)
        name = f"{self.name}-{self.version}-{self.python}-{self.python}-{self.platform}.whl"
        path = directory / (self.file_name or name)
        lines = [f"{name},{hashed(data)},{len(data)}" for name, data in self.files.items()]
        lines.append(f"{self.dist_info}/RECORD,,")
        record = "\n".join(lines) + "\n" if self.record is None else self.record
        files = {**self.files, f"{self.dist_info}/RECORD": record.encode()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name in sorted(files, reverse=self.reverse):
                info = zipfile.ZipInfo(name, self.date)
                info.external_attr = self.modes.get(name, 0o100664) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                out.writestr(info, files[name])
        return path


def write_release(
    contents: Contents,
    directory: Path,
    version: str = mantaray.__version__,
    project: str = "ray-mantaray",
) -> Path:
    """Write a Mantaray as a wheel of a project and return the file."""
    name = project.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = {file.name: (file.source.read_bytes(), file.mode) for file in contents.files}
    files[f"{info}/METADATA"] = (f"Metadata-Version: 2.1\nName: {project}\n".encode(), 0)
    files[f"{info}/WHEEL"] = (b"Wheel-Version: 1.0\n", 0)
    entries = [(path, entry_of(data)) for path, (data, _) in files.items()]
    files[f"{info}/RECORD"] = (format_record(entries, f"{info}/RECORD"), 0)
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with wheel.open("wb") as out, WheelWriter(out) as writer:
        for path, (data, mode) in files.items():
            writer.add(path, data, mode)
    return wheel
