"""The list of what is linked into the wheels, as CycloneDX 1.5 (JSON).

Versions are read where the build takes them from: the pins in bazel/, the compiler's package, and
the pinned packages of the relay's libraries.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.distribution.sysroot import Pin

# Debian's package of the static archive: name of the library, licence.
_RELAY_LIBRARIES = {
    "libgrpc-dev": ("grpc", "Apache-2.0"),
    # gRPC's own copy of protobuf's small runtime; the C++ runtime is not linked.
    "libupb-dev": ("protobuf-upb", "BSD-3-Clause"),
    "libutf8-range-dev": ("protobuf-utf8-range", "MIT"),
    "libssl-dev": ("openssl", "Apache-2.0"),
    "libabsl-dev": ("abseil-cpp", "Apache-2.0"),
    "libc-ares-dev": ("c-ares", "MIT"),
    "libre2-dev": ("re2", "BSD-3-Clause"),
    "zlib1g-dev": ("zlib", "Zlib"),
    "libzstd-dev": ("zstd", "BSD-3-Clause"),
    "libc6-dev": ("glibc", "LGPL-2.1-or-later"),
    "libstdc++-14-dev": ("libstdc++", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    "libgcc-14-dev": ("libgcc", "GPL-3.0-or-later WITH GCC-exception-3.1"),
}


def bill_of_materials(root: Path, version: str, relay: Sequence[Pin]) -> dict[str, Any]:
    """Return the document.

    Args:
        root: the source tree.
        version: of Mantaray.
        relay: the packages that the relay was linked with.

    Raises:
        ValueError: a pin is not where it is expected, or a library of the relay is not pinned.
    """
    grpcio = _pin(root / "bazel/abseil.bzl", "grpcio")
    base = [
        _library("abseil-cpp", f"of grpcio {grpcio}", "Apache-2.0", f"pkg:pypi/grpcio@{grpcio}"),
        _library("pybind11", _pin(root / "bazel/pybind11.bzl", "pybind11"), "BSD-3-Clause"),
        _library("llvm-libcxx", f"of ziglang {_ziglang()}", "Apache-2.0 WITH LLVM-exception"),
        _library("llvm-libunwind", f"of ziglang {_ziglang()}", "Apache-2.0 WITH LLVM-exception"),
    ]
    products = {"ray-mantaray": base, "ray-mantaray-relay": _relay_libraries(relay)}
    for product, parts in products.items():
        for part in parts:
            part["bom-ref"] = f"{product}/{part['name']}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": _product("ray-mantaray", version)},
        "components": [
            *(_product(name, version) for name in products if name != "ray-mantaray"),
            *(part for parts in products.values() for part in parts),
        ],
        "dependencies": [
            {
                "ref": f"{product}@{version}",
                "dependsOn": [part["bom-ref"] for part in parts],
            }
            for product, parts in products.items()
        ],
    }


def _product(name: str, version: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }


def _library(name: str, version: str, licence: str, purl: str | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": version,
        "licenses": [{"expression": licence}],
    }
    if purl is not None:
        entry["purl"] = purl if "@" in purl else f"{purl}@{version}"
    return entry


def _pin(path: Path, package: str) -> str:
    found = re.search(rf'_PACKAGE = "{package}==([^"]+)"', path.read_text())
    if found is None:
        raise ValueError(f"{path} pins no {package}")
    return found[1]


def _ziglang() -> str:
    return importlib.metadata.version("ziglang")


def _relay_libraries(pins: Sequence[Pin]) -> list[dict[str, Any]]:
    versions = {pin.package: pin.version for pin in pins}
    if missing := _RELAY_LIBRARIES.keys() - versions.keys():
        raise ValueError(f"the relay's libraries are pinned without {', '.join(sorted(missing))}")
    return [
        _library(name, versions[package], licence, f"pkg:deb/debian/{package}")
        for package, (name, licence) in _RELAY_LIBRARIES.items()
    ]
