"""What the overlay costs: less than 2 ms without Ray, at most 5 ms for all checks and for an import of Ray.

Two environments are made that differ in that one file. Their interpreters are started in turn, so
that whatever else the machine does falls on both alike, and the medians are compared. The second
figure comes from the interpreter itself: the lines of `-X importtime` for Mantaray's modules.

In an environment with Ray, the processor time is measured that an `import ray` spends in Mantaray: loading
it, and attaching what has to do with the modules that were imported. What Ray itself imports of other
libraries is imported before.

With --wheels, the check of a Ray is measured as well: for each official wheel in a directory, the files
that patches rely on are laid out as an installed Ray has them. An interpreter then checks all targets of
all patches, which is more than any one process of Ray does. The figure is processor time, because waiting
for a busy machine says nothing about the overlay.

    python benchmarks/overlay_startup.py [--runs N] [--wheels DIR] [--json]
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1] / "python"
CLAIM_MS = 2.0
CHECK_CLAIM_MS = 5.0
CHECK_RUNS = 5
# Prints the processor time of all checks in ms, how many sources were parsed, and what was refused.
_CHECK = """
import ast, json, sys, time
sys.path.insert(0, sys.argv[1])
from mantaray.overlay import checks, hooks
from mantaray.overlay.versions import InstalledSources
hooks.OVERLAY.install()
parsed = []
parse = ast.parse
ast.parse = lambda *args, **kwargs: (parsed.append(1), parse(*args, **kwargs))[1]
ray = hooks.OVERLAY.conditions.ray
known = hooks.OVERLAY.conditions.known
armed = {status.name for status in hooks.OVERLAY.status() if status.state.value == "armed"}
begin = time.process_time()
refused = [
    why
    for patch in hooks.OVERLAY.patches()
    if patch.name in armed
    and (why := checks.conflicts(patch, ray.version, known, InstalledSources(ray.path)))
]
took_ms = (time.process_time() - begin) * 1_000
print(json.dumps([took_ms, len(parsed), refused]))
"""
IMPORT_CLAIM_MS = 5.0
IMPORT_RUNS = 15
# Prints what `import ray` loads besides Ray. Without site there is no Mantaray.
_LOADED = """
import json, sys
sys.path.append(sys.argv[1])
import ray
print(json.dumps([name for name in sys.modules if name.split(".")[0] not in ("ray", "__main__")]))
"""
# Prints the processor time in ms that an import of Ray spends in Mantaray.
_IMPORT = """
import contextlib, importlib, json, sys, time
for name in json.loads(sys.argv[1]):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
from mantaray.overlay import bootstrap
spent = []

def timed(function):
    def call(*args):
        begin = time.thread_time()
        try:
            return function(*args)
        finally:
            spent.append(time.thread_time() - begin)
    return call

def attach():
    # Only once: the overlay looks for Ray and so comes by here again.
    bootstrap._attach = lambda: None
    from mantaray.overlay import hooks
    hooks.Overlay._imported = timed(hooks.Overlay._imported)
    hooks.attach()

bootstrap._attach = timed(attach)
import ray
from mantaray.overlay import status
assert any(each.state.value == "active" for each in status()), "nothing is attached"
print(sum(spent) * 1_000)
"""
_IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(mantaray\S*)$", re.MULTILINE)


def make_environment(root: Path, attached: bool) -> Path:
    """Make an environment with Mantaray in it and return its interpreter.

    Args:
        root: where to.
        attached: whether `mantaray.pth` is there too.
    """
    venv.create(root, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(root), "platbase": str(root)}))
    shutil.copytree(
        PACKAGE / "mantaray",
        site / "mantaray",
        ignore=shutil.ignore_patterns("__pycache__", "*.so"),
    )
    # As pip does when it installs something.
    compileall.compile_dir(site / "mantaray", quiet=2)
    if attached:
        shutil.copy(PACKAGE / "mantaray.pth", site)
    return root / "bin" / "python"


def start_ms(python: Path) -> float:
    """Start an interpreter that does nothing; return how long that took."""
    before = time.perf_counter()
    subprocess.run([python, "-c", "pass"], check=True)
    return (time.perf_counter() - before) * 1_000


def import_lines(python: Path) -> dict[str, int]:
    """Return the microseconds that each of Mantaray's modules takes by itself at start-up."""
    result = subprocess.run(
        [python, "-X", "importtime", "-c", "pass"], check=True, capture_output=True, text=True
    )
    return {name: int(own_us) for own_us, name in _IMPORT_LINE.findall(result.stderr)}


def measure(runs: int) -> dict[str, object]:
    """Start both interpreters `runs` times in turn; return the figures."""
    with tempfile.TemporaryDirectory(prefix="mantaray-startup-") as directory:
        plain = make_environment(Path(directory, "plain"), attached=False)
        attached = make_environment(Path(directory, "attached"), attached=True)
        # The first start of each fills the page cache.
        start_ms(plain)
        start_ms(attached)
        samples: dict[str, list[float]] = {"plain": [], "attached": []}
        for _ in range(runs):
            samples["plain"].append(start_ms(plain))
            samples["attached"].append(start_ms(attached))
        lines = import_lines(attached)
    plain_ms = statistics.median(samples["plain"])
    attached_ms = statistics.median(samples["attached"])
    return {
        "runs": runs,
        "plain_ms": round(plain_ms, 3),
        "attached_ms": round(attached_ms, 3),
        "difference_ms": round(attached_ms - plain_ms, 3),
        "claim_ms": CLAIM_MS,
        "importtime_us": lines,
        "holds": attached_ms - plain_ms < CLAIM_MS,
    }


def measure_import(runs: int = IMPORT_RUNS) -> dict[str, Any] | None:
    """Import Ray `runs` times; return the figures, or None in an environment without Ray."""
    site = Path(sysconfig.get_path("purelib"))
    if not (site / "ray" / "__init__.py").is_file():
        return None
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", _LOADED, str(site)], check=True, capture_output=True, text=True
    ).stdout.splitlines()[-1]
    samples = [
        float(
            subprocess.run(
                [sys.executable, "-c", _IMPORT, loaded], check=True, capture_output=True, text=True
            ).stdout
        )
        for _ in range(runs)
    ]
    median_ms = statistics.median(samples)
    return {
        "import_ms": round(median_ms, 2),
        "least_ms": round(min(samples), 2),
        "most_ms": round(max(samples), 2),
        "holds": median_ms <= IMPORT_CLAIM_MS,
    }


def lay_out(wheel: Path, root: Path) -> None:
    """Put those files of a wheel that the table of known Rays names where an installed Ray has them."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        release = wheel.name.split("-")[1]
        table = PACKAGE / "mantaray" / "overlay" / "rays" / f"{release}.json"
        wanted = ["ray/__init__.py", "ray/_version.py"]
        for module in json.loads(table.read_text())["files"]:
            path = module.replace(".", "/")
            wanted.append(f"{path}.py" if f"{path}.py" in names else f"{path}/__init__.py")
        for name in wanted:
            archive.extract(name, root)


def measure_checks(wheels: Path) -> dict[str, dict[str, Any]]:
    """Check the Ray of each official wheel in a directory; return the figures by release."""
    figures: dict[str, dict[str, Any]] = {}
    for wheel in sorted(wheels.glob("ray-*.whl"), key=lambda path: path.name):
        with tempfile.TemporaryDirectory(prefix="mantaray-checks-") as directory:
            lay_out(wheel, Path(directory))
            command = [sys.executable, "-c", _CHECK, directory]
            environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
            runs = [
                json.loads(
                    subprocess.run(command, check=True, capture_output=True, env=environment).stdout
                )
                for _ in range(CHECK_RUNS)
            ]
        check_ms = statistics.median(run[0] for run in runs)
        _, parsed, refused = runs[0]
        figures[wheel.name.split("-")[1]] = {
            "check_ms": round(check_ms, 3),
            "parsed": parsed,
            "refused": refused,
            "holds": check_ms <= CHECK_CLAIM_MS and not parsed and not refused,
        }
    return figures


def main() -> int:
    """Measure, print, and return 0 only if the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="starts of each interpreter")
    parser.add_argument(
        "--wheels", type=Path, help="official wheels of Ray, to measure the checks of"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    figures = measure(options.runs)
    checks = measure_checks(options.wheels) if options.wheels else {}
    figures["checks"] = checks
    imported = measure_import()
    figures["import"] = imported
    holds = (
        bool(figures["holds"])
        and all(each["holds"] for each in checks.values())
        and (imported is None or bool(imported["holds"]))
    )
    if options.json:
        print(json.dumps(figures))
    else:
        print(f"interpreter start-up without Ray, median of {figures['runs']} starts, in turn")
        print(f"  without mantaray.pth  {figures['plain_ms']:8.3f} ms")
        print(f"  with mantaray.pth     {figures['attached_ms']:8.3f} ms")
        print(
            f"  difference            {figures['difference_ms']:8.3f} ms (claim: < {CLAIM_MS} ms)"
        )
        print("of which -X importtime shows")
        lines = figures["importtime_us"]
        assert isinstance(lines, dict)
        for name, own_us in lines.items():
            print(f"  {name:<28} {own_us:5d} us")
        if imported is not None:
            print(
                f"import of Ray, processor time in Mantaray, median of {IMPORT_RUNS} "
                f"{imported['import_ms']} ms, {imported['least_ms']} to {imported['most_ms']} "
                f"(claim: <= {IMPORT_CLAIM_MS} ms)"
            )
        if checks:
            print(
                f"check of all targets, processor time (claim: <= {CHECK_CLAIM_MS} ms, nothing parsed)"
            )
        for release, each in checks.items():
            said = f"{each['parsed']} files parsed, {len(each['refused'])} patches refused"
            print(f"  Ray {release:<24} {each['check_ms']:8.3f} ms  {said}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
