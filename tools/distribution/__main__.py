"""Command line: `python -m tools.distribution [all|relay|raise] [-o DIR]`; `make dist` runs it.

`relay` makes only the relay's wheel for this machine, with the gRPC of its distribution; tools/setup
runs that. `raise` pins the newest packages of Debian that the published relay can be linked with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mantaray
from tools.distribution import debian, packing, sbom, sysroot, targets
from tools.distribution.auditing import audit, needed_libraries

ROOT = Path(__file__).resolve().parents[2]
_MODULES = Path("src/mantaray/python")
_RELAY = "//src/mantaray/relay:mantaray-relay"
_BASE_LIMIT_BYTES = 4_000_000
# Downloaded headers and libraries of other systems.
_DOWNLOADS = ROOT / "build/headers"
# The same sources make the same files.
_EPOCH_S = "315532800"


class DistError(RuntimeError):
    """Something cannot be made; the message says what and why."""


def say(words: str) -> None:
    """Tell what is being done, on standard error."""
    print(f"dist: {words}", file=sys.stderr, flush=True)


def bazel(arguments: Sequence[str], variables: dict[str, str]) -> str:
    """Run Bazel in this tree and return its standard output.

    Raises:
        DistError: it failed.
    """
    done = subprocess.run(
        ["bazel", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHON_BIN_PATH": sys.executable, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DistError(f"bazel {arguments[0]} ended with status {done.returncode}; see above")
    return done.stdout


def outputs(labels: Sequence[str], options: Sequence[str], variables: dict[str, str]) -> Path:
    """Build Bazel targets and return the directory that their outputs lie in."""
    bazel(["build", *options, *labels], variables)
    return Path(bazel(["info", *options, "bazel-bin"], variables).strip())


def build_modules(machine: str, pythons: dict[str, Path], scratch: Path) -> dict[str, Path]:
    """Build the extension module of each Python for a machine; return copies by version."""
    names = {python: f"_native_{targets.digits(python)}.so" for python in pythons}
    say(f"compiling for {machine}: Python {', '.join(pythons)}")
    variables = {
        f"MANTARAY_PYTHON_HEADERS_{targets.digits(python)}": str(include)
        for python, include in pythons.items()
    }
    labels = [f"//{_MODULES}:{name}" for name in names.values()]
    base = outputs(labels, [f"--config=wheel-{machine}"], variables)
    copies = {}
    for python, name in names.items():
        copies[python] = scratch / f"{machine}-{name}"
        shutil.copyfile(base / _MODULES / name, copies[python])
    return copies


def build_template(module: Path, scratch: Path) -> Path:
    """Let setuptools make a wheel for the interpreter at hand, which carries this module."""
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--disable-pip-version-check"]
    command += ["--no-input", "--no-build-isolation", "--no-deps", "-w", str(scratch), str(ROOT)]
    variables = {"MANTARAY_NATIVE_PREBUILT": str(module), "SOURCE_DATE_EPOCH": _EPOCH_S}
    subprocess.run(command, env={**os.environ, **variables}, check=True)
    (template,) = scratch.glob("ray_mantaray-*.whl")
    return template


def build_wheels(scratch: Path, wanted: Sequence[str], machines: Sequence[str]) -> list[Path]:
    """Make the base wheels.

    Args:
        scratch: a directory for what is made.
        wanted: the Pythons, as "3.10".
        machines: the machines, as "aarch64".

    Raises:
        DistError: no Python has headers, a wheel is too large, or auditwheel contradicts its tag.
    """
    found = {python: targets.headers(python, _DOWNLOADS) for python in wanted}
    for python in [python for python, include in found.items() if include is None]:
        say(f"no wheel for Python {python}: its headers cannot be had on this machine")
    pythons = {python: include for python, include in found.items() if include is not None}
    if not pythons:
        raise DistError("no Python has headers; install python3-dev")
    wheels: list[Path] = []
    template = None
    for machine in machines:
        modules = build_modules(machine, pythons, scratch)
        template = template or build_template(next(iter(modules.values())), scratch)
        platform = targets.PLATFORM.format(machine=machine)
        for python, module in modules.items():
            tag = f"cp{targets.digits(python)}"
            wheel = packing.retag(template, module, tag, machine, platform)
            check(wheel, module, machine)
            wheels.append(wheel)
    return wheels


def check(wheel: Path, module: Path, machine: str) -> None:
    """Let auditwheel judge a module, and the size limit its wheel.

    Raises:
        DistError: one of them does not agree.
    """
    verdict = audit(module, machine)
    if verdict != targets.AUDITED.format(machine=machine):
        raise DistError(f"auditwheel says that {wheel.name} is {verdict}")
    if wheel.stat().st_size > _BASE_LIMIT_BYTES:
        raise DistError(f"{wheel.name} has {wheel.stat().st_size} bytes; limit: 4 MB")


def build_relay(out: Path) -> Path:
    """Make the relay's wheel for this machine, linked with the distribution's gRPC."""
    say("compiling the relay")
    program = outputs([_RELAY], [], {}) / _RELAY.removeprefix("//").replace(":", "/")
    machine = os.uname().machine
    return pack_relay(program, audit(program, machine), out)


def build_static_relay(machine: str, out: Path) -> Path:
    """Make the relay's wheel for a machine, linked statically with the pinned gRPC.

    Raises:
        DistError: the program asks for a library, so that its tag would not be true.
        SysrootError: the pinned libraries cannot be had.
    """
    say(f"unpacking the relay's libraries for {machine}")
    libraries = sysroot.unpack(machine, _DOWNLOADS)
    say(f"compiling the relay for {machine}")
    variables = {f"MANTARAY_RELAY_SYSROOT_{machine}": str(libraries)}
    base = outputs([_RELAY], [f"--config=relay-{machine}"], variables)
    program = base / _RELAY.removeprefix("//").replace(":", "/")
    if needed := needed_libraries(program):
        raise DistError(f"the relay for {machine} is not static: it needs {', '.join(needed)}")
    return pack_relay(program, targets.PLATFORM.format(machine=machine), out)


def pack_relay(program: Path, platform: str, out: Path) -> Path:
    """Write the wheel of a relay's program."""
    papers = [ROOT / "LICENSE", Path(__file__).with_name("NOTICE")]
    out.mkdir(parents=True, exist_ok=True)
    return packing.relay_wheel(program, mantaray.__version__, platform, papers, out)


def build_source(out: Path) -> Path:
    """Make the source distribution."""
    say("packing the sources")
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "SOURCE_DATE_EPOCH": _EPOCH_S},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DistError(f"setuptools cannot pack the sources:\n{done.stderr}")
    return out / done.stdout.splitlines()[-1]


def build_all(out: Path, pythons: Sequence[str], machines: Sequence[str]) -> list[Path]:
    """Make everything and lay it into a directory; earlier files of the distribution go."""
    with tempfile.TemporaryDirectory(prefix="mantaray-dist-") as name:
        scratch = Path(name)
        wheels = build_wheels(scratch, pythons, machines)
        relays = [build_static_relay(machine, scratch / "relay") for machine in machines]
        made = [*wheels, *relays, build_source(scratch / "source")]
        bill = scratch / f"ray_mantaray-{mantaray.__version__}.cdx.json"
        text = json.dumps(
            sbom.bill_of_materials(ROOT, mantaray.__version__, sysroot.pins()), indent=2
        )
        bill.write_text(text + "\n")
        made.append(bill)
        out.mkdir(parents=True, exist_ok=True)
        for old in [*out.glob("ray_mantaray*"), *out.glob("SHA256SUMS")]:
            old.unlink()
        placed = [Path(shutil.move(path, out / path.name)) for path in made]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in placed]
    (out / "SHA256SUMS").write_text("\n".join(sorted(sums, key=lambda line: line[66:])) + "\n")
    return placed


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tools.distribution", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "relay", "raise"), default="all")
    parser.add_argument("-o", "--out-dir", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", action="append", choices=targets.PYTHONS, help="only this one")
    parser.add_argument("--machine", action="append", choices=targets.MACHINES)
    arguments = parser.parse_args()
    # mantaray.pth imports an installed Mantaray before any line of this.
    if Path(mantaray.__file__).resolve().parent != ROOT / "python" / "mantaray":
        sys.exit(
            "dist: error: another Mantaray is imported; run it as PYTHONPATH=python python -m ..."
        )
    try:
        if arguments.what == "raise":
            sysroot.LOCK.write_text(sysroot.raised(sysroot.pins(), _DOWNLOADS))
            return
        relay = arguments.what == "relay"
        pythons = arguments.python or targets.PYTHONS
        machines = arguments.machine or targets.MACHINES
        out = arguments.out_dir
        made = [build_relay(out)] if relay else build_all(out, pythons, machines)
    except (DistError, debian.DebianError, sysroot.SysrootError) as error:
        sys.exit(f"dist: error: {error}")
    for path in made:
        print(path)


if __name__ == "__main__":
    main()
