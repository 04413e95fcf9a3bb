"""The list of what is linked into the wheels, as CycloneDX 1.5 (JSON).

Versions are read where the build takes them from: the pins in bazel/, the compiler's package, and
the distribution's packages of the relay's libraries.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path
from typing import Any

# Debian's package of the static archive: name of the library, licence.
_RELAY_LIBRARIES = {
    "libgrpc-dev": ("grpc", "Apache-2.0"),
    "libprotobuf-dev": ("protobuf", "BSD-3-Clause"),
    "libssl-dev": ("openssl", "Apache-2.0"),
    "libabsl-dev": ("abseil-cpp", "Apache-2.0"),
    "libc-ares-dev": ("c-ares", "MIT"),
    "libre2-dev": ("re2", "BSD-3-Clause"),
    "zlib1g-dev": ("zlib", "Zlib"),
}


def bill_of_materials(root: Path, version: str, relay: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        root: the source tree.
        version: of Mantaray.
        relay: whether the relay was built, from the distribution's libraries.

    Raises:
        ValueError: a pin is not where it is expected.
    """
    grpcio = _pin(root / "bazel/abseil.bzl", "grpcio")
    base = [
        _library("abseil-cpp", f"of grpcio {grpcio}", "Apache-2.0", f"pkg:pypi/grpcio@{grpcio}"),
        _library("pybind11", _pin(root / "bazel/pybind11.bzl", "pybind11"), "BSD-3-Clause"),
        _library("llvm-libcxx", f"of ziglang {_ziglang()}", "Apache-2.0 WITH LLVM-exception"),
        _library("llvm-libunwind", f"of ziglang {_ziglang()}", "Apache-2.0 WITH LLVM-exception"),
    ]
    products = {"ray-mantaray": base}
    if relay:
        products["ray-mantaray-relay"] = [
            _library(name, _debian_version(package), licence, f"pkg:deb/debian/{package}")
            for package, (name, licence) in _RELAY_LIBRARIES.items()
        ]
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


def _debian_version(package: str) -> str:
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True
    )
    if asked.returncode != 0:
        raise ValueError(f"dpkg knows no {package}, which the relay is linked with")
    return asked.stdout
