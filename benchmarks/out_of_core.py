"""Jobs larger than the object store, on stock Ray and with Mantaray, beside the same in memory.

Jobs of Ray Data, random gets, and a pull by another node.
Each job is one comparison as in shuffle.py, whose program runs it.

    python benchmarks/out_of_core.py [--rounds N] [--gigabytes N] [--store-gigabytes N] [--blocks N]
                                     [--kinds KIND,...] [--output DIRECTORY [--resume]]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import shuffle
from out_of_core_jobs import JOBS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--store-gigabytes", type=float, default=0.25)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--kinds", default=",".join(kind for kind in JOBS if kind != "tasks"))
    parser.add_argument("--output", type=Path, help="a directory for JSON files")
    parser.add_argument("--resume", action="store_true", help="add rounds to those in the files")
    options = parser.parse_args()
    has_pandas = all(importlib.util.find_spec(name) for name in ("pandas", "pyarrow"))
    for kind in options.kinds.split(","):
        if JOBS[kind].needs_ray_data and not has_pandas:
            print(f"{kind}: left out; install pandas and pyarrow beside Ray", file=sys.stderr)
            continue
        output = options.output and options.output / f"{kind}.json"
        print(f"\n{JOBS[kind].title}")
        shuffle.compare(argparse.Namespace(**{**vars(options), "kind": kind, "output": output}))


if __name__ == "__main__":
    main()
