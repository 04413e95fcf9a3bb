"""The list of what is linked into the wheels, as CycloneDX 1.5 (JSON).

Versions are read where the build takes them from: the pins in bazel/, the compiler's package, and
the pinned packages of the relay's libraries. Each library has the version and the package URL under
which databases of vulnerabilities know it.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

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

_LLVM = "pkg:github/llvm/llvm-project"
_LLVM_LICENCE = "Apache-2.0 WITH LLVM-exception"


def bill_of_materials(root: Path, version: str, relay: Sequence[Pin]) -> dict[str, Any]:
    """Return the document.

    Args:
        root: the source tree.
        version: of Mantaray.
        relay: the packages that the relay was linked with.

    Raises:
        ValueError: a pin is not where it is expected, or a library of the relay is not pinned.
    """
    abseil = _pin(root / "bazel/abseil.bzl", r'_VERSION = "([^"]+)"')
    pybind11 = _pin(root / "bazel/pybind11.bzl", r'_PACKAGE = "pybind11==([^"]+)"')
    llvm = _llvm()
    base = [
        _library("abseil-cpp", abseil, "Apache-2.0", "pkg:github/abseil/abseil-cpp"),
        _library("pybind11", pybind11, "BSD-3-Clause", "pkg:pypi/pybind11"),
        _library("llvm-libcxx", llvm, _LLVM_LICENCE, _LLVM),
        _library("llvm-libcxxabi", llvm, _LLVM_LICENCE, _LLVM),
        _library("llvm-libunwind", llvm, _LLVM_LICENCE, _LLVM),
        _library("zig-compiler-rt", _ziglang(), "MIT", "pkg:pypi/ziglang"),
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


def _library(name: str, version: str, licence: str, purl: str) -> dict[str, Any]:
    """Describe a library; the package URL is given without its version."""
    return {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"{purl}@{quote(version, safe='')}",
        "licenses": [{"expression": licence}],
    }


def _pin(path: Path, pattern: str) -> str:
    found = re.search(f"^{pattern}", path.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{path} has no line {pattern}")
    return found[1]


def _ziglang() -> str:
    return importlib.metadata.version("ziglang")


def _llvm() -> str:
    """Return the version of the C++ library that the compiler's package carries.

    Raises:
        ValueError: the package does not say it where libc++ does.
    """
    files = importlib.metadata.files("ziglang") or []
    configs = [file for file in files if file.match("lib/libcxx/include/__config")]
    found = [
        re.search(r"_LIBCPP_VERSION (\d+)(\d\d)(\d\d)\n", file.read_text()) for file in configs
    ]
    if len(found) != 1 or found[0] is None:
        raise ValueError("the package ziglang does not say which libc++ it carries")
    return ".".join(str(int(part)) for part in found[0].groups())


def _relay_libraries(pins: Sequence[Pin]) -> list[dict[str, Any]]:
    versions = {pin.package: pin.version for pin in pins}
    if missing := _RELAY_LIBRARIES.keys() - versions.keys():
        raise ValueError(f"the relay's libraries are pinned without {', '.join(sorted(missing))}")
    return [
        _library(name, versions[package], licence, f"pkg:deb/debian/{package}")
        for package, (name, licence) in _RELAY_LIBRARIES.items()
    ]
