"""What `mantaray.pth` costs an interpreter that never imports Ray. The claim: less than 2 ms.

Two environments are made that differ in that one file. Their interpreters are started in turn, so
that whatever else the machine does falls on both alike, and the medians are compared. The second
figure comes from the interpreter itself: the lines of `-X importtime` for Mantaray's modules.

    python benchmarks/overlay_startup.py [--runs N] [--json]
"""

from __future__ import annotations

import argparse
import compileall
import json
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "python"
CLAIM_MS = 2.0
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


def main() -> int:
    """Measure, print, and return 0 only if the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="starts of each interpreter")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    figures = measure(options.runs)
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
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
