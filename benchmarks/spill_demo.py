"""`make demo`: two workloads that overrun the object store, on stock Ray and with Mantaray.

The first keeps one object in twenty, and shows what stays on the disk. The second is a small shuffle of
four times the object store, beside the same shuffle in memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import shuffle
from spill_arms import run_arm

OBJECTS = 1200
OBJECT_BYTES = 1_000_000
SHUFFLE = argparse.Namespace(
    kind="tasks", gigabytes=0.4, store_gigabytes=0.1, blocks=40, rounds=1, output=None
)

ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("live bytes", "live_bytes", lambda v: f"{v / 1e6:,.0f} MB"),
    ("bytes on disk", "disk_bytes", lambda v: f"{v / 1e6:,.0f} MB"),
    ("amplification", "amplification", lambda v: f"{v:.2f}"),
    ("files", "files", lambda v: f"{v}"),
    ("spill MB/s", "spill_mb_s", lambda v: f"{v:,.0f}"),
    ("restore MB/s", "restore_mb_s", lambda v: f"{v:,.0f}"),
    ("data verified", "verified", lambda v: "yes" if v else "NO"),
)


def main() -> None:
    total_mb = OBJECTS * OBJECT_BYTES // 1_000_000
    print(
        f"{OBJECTS} objects of 1 MB ({total_mb} MB) into a 200 MB store, one in 20 kept",
        file=sys.stderr,
    )
    results = {}
    for arm, title in (("stock", "stock Ray"), ("mantaray", "Ray with Mantaray")):
        print(f"{title}:", file=sys.stderr, flush=True)
        results[arm] = run_arm(arm, OBJECTS, OBJECT_BYTES)
    print(f"\n{'Ray ' + results['stock']['ray']:<16}{'stock':>14}{'Mantaray':>14}")
    for title, key, show in ROWS:
        print(f"{title:<16}{show(results['stock'][key]):>14}{show(results['mantaray'][key]):>14}")
    if not all(result["verified"] for result in results.values()):
        raise SystemExit("data read back differs from what was put")
    print(
        f"\nshuffle of {SHUFFLE.gigabytes * 1000:.0f} MB through a store of "
        f"{SHUFFLE.store_gigabytes * 1000:.0f} MB, and in memory",
        file=sys.stderr,
    )
    print("\n" + shuffle.report(shuffle.run_rounds(SHUFFLE)))


if __name__ == "__main__":
    main()
