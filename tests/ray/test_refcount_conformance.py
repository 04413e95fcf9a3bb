"""Real Ray and the library go through the same scenarios; what can be seen of them has to agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import RayEnv
from tests.support.refcount_scenarios import KNOWN_DIFFERENCES, SCENARIOS, steps_of
from tests.support.refcount_world import go_through

PROGRAM = Path(__file__).parent / "programs" / "refcount_conformance.py"
_LIVE: dict[str, Any] = {}


def _seen_live(ray_env: RayEnv, tmp_path: Path) -> Any:
    """Go through all scenarios with one cluster of each Ray, once."""
    if ray_env.version not in _LIVE:
        work = {}
        for name in SCENARIOS:
            steps = steps_of(name)
            expected = _expected(ray_env.version, name)
            work[name] = {
                "steps": steps,
                "expected": [each["tables"] for each in expected],
                "reads": [each["read"] for each in expected],
            }
        file = tmp_path / "scenarios.json"
        file.write_text(json.dumps(work))
        _LIVE[ray_env.version] = ray_env.run_program(PROGRAM, [file], timeout_s=300)
    return _LIVE[ray_env.version]


def _expected(version: str, scenario: str) -> list[dict[str, Any]]:
    """What the library shows, but for the differences that are known and documented."""
    seen = go_through(steps_of(scenario))
    for step, tables in KNOWN_DIFFERENCES.get((version, scenario), {}).items():
        seen[step]["tables"] = seen[step]["tables"] | tables
    return seen


def _shown(seen: list[dict[str, Any]]) -> list[Any]:
    """What to compare: a process whose table is empty is as good as one that has done nothing yet."""
    return [
        ({who: table for who, table in each["tables"].items() if table}, each["read"])
        for each in seen
    ]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_library_and_ray_agree(ray_env: RayEnv, tmp_path: Path, scenario: str) -> None:
    live = _seen_live(ray_env, tmp_path)[scenario]
    assert isinstance(live, list), live
    steps = [" ".join(words) for words in steps_of(scenario)]
    ours = dict(enumerate(zip(steps, _shown(_expected(ray_env.version, scenario)), strict=True)))
    theirs = dict(enumerate(zip(steps, _shown(live), strict=True)))
    assert theirs == ours


def test_everything_is_gone_in_the_end_unless_somebody_keeps_it() -> None:
    left = {}
    for scenario in SCENARIOS:
        tables = go_through(steps_of(scenario))[-1]["tables"]
        if any(tables.values()):
            left[scenario] = tables
    # A pickled reference is never given back.
    assert set(left) == {"pickled out of band", "pickled out of band by a borrower"}
