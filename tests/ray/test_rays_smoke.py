"""Each patch does its work once on a release of Ray, stock beside ours; `make test-rays` takes them all.

MANTARAY_TEST_RAYS names the releases. With MANTARAY_TEST_RESULTS, a directory, what was seen is
written there, whether it is good or not: docs/compatibility.md is made from these files.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.compatibility import registered_patches
from tests.support.rays import REPOSITORY, find_ray, find_stock_ray
from tests.support.smoke import Outcome, run_smoke

# Beside the oldest and the newest, which have the whole test run.
IN_BETWEEN = "2.52.1 2.55.1"
RAYS = os.environ.get("MANTARAY_TEST_RAYS", IN_BETWEEN).split()
RESULTS = os.environ.get("MANTARAY_TEST_RESULTS")


# Two clusters with a dashboard each, and all of the work: a machine that does much else takes long.
@pytest.mark.timeout(3_600)
@pytest.mark.needs_root
@pytest.mark.parametrize("version", RAYS, ids=[f"ray-{version}" for version in RAYS])
def test_every_patch_does_its_work_and_none_is_refused(version: str) -> None:
    tried = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"])
    if tried.returncode != 0:
        pytest.skip("cannot make a pid namespace here")
    begun = time.monotonic()
    outcomes = run_smoke(find_ray(version), find_stock_ray(version), with_deaths=bool(RESULTS))
    seconds = round(time.monotonic() - begun)
    print(json.dumps({name: outcome.as_json() for name, outcome in outcomes.items()}, indent=2))
    if RESULTS:
        write_results(Path(RESULTS), version, outcomes, seconds)
    assert len(outcomes) >= 11
    failed = {name: outcome.as_json() for name, outcome in outcomes.items() if not outcome.ok}
    assert not failed, f"Ray {version}"


def write_results(
    directory: Path, version: str, outcomes: Mapping[str, Outcome], seconds: int
) -> None:
    """Write what was seen on one release, as `docs/results/rays` keeps it."""
    python = find_ray(version).run_program(
        "import json, platform; print(json.dumps(platform.python_version()))"
    )
    tag = "cp" + "".join(python.split(".")[:2])
    told = {
        "ray": version,
        "python": python,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": _commit(),
        # What `make test-rays` compares; see tools/test_rays.
        "source": os.environ.get("MANTARAY_TEST_SOURCE", ""),
        "seconds": seconds,
        "ok": all(outcome.ok for outcome in outcomes.values()),
        "patches": {
            patch.name: {
                "summary": patch.summary,
                "plain_since": patch.plain_since,
                "enough_since": patch.enough_since,
                **outcomes[patch.name].as_json(),
            }
            for patch in registered_patches()
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{version}-{tag}.json").write_text(json.dumps(told, indent=2) + "\n")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
