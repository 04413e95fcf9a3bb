"""Five leaks that users meet, on one cluster; `mantaray refs` names the variable of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.rays import RayEnv

PROGRAM = Path(__file__).parent / "programs" / "refs_leaks.py"


def variables_of(leak: Any) -> dict[str, list[str]]:
    """Return the paths that each holder of a leaked object names."""
    return {
        holder["actor"] or holder["kind"]: holder["variables"]["paths"]
        for holder in leak["why"]["holders"]
        if holder["variables"]
    }


@pytest.mark.slow
def test_each_of_five_leaks_is_traced_to_the_variable_that_keeps_it(ray_env: RayEnv) -> None:
    told = ray_env.run_program(PROGRAM)
    # What `ray memory` knows: a process, and that it has a reference.
    assert all("LOCAL_REFERENCE" in leak["ray memory"][0] for leak in told.values())
    assert variables_of(told["list in an actor"]) == {"Cache": ["actor Cache.results[0]"]}

    (traceback,) = variables_of(told["exception traceback"])["Loader"]
    begin = "actor Loader.last_error -> traceback of ValueError -> local batch of "
    assert traceback.startswith(begin)
    assert "parse (refs_leaks.py:" in traceback

    (cycle,) = variables_of(told["reference cycle"])["Trees"]
    assert cycle.startswith("a reference cycle: Node.value; no module, function or actor leads")

    lent = variables_of(told["borrowed by a long-lived actor"])
    assert lent == {"Registry": ["actor Registry.latest['model']"]}

    closure = variables_of(told["closure in a remote function"])
    ends = "-> closure variable table of make_task.<locals>.use (refs_leaks.py:"
    assert set(closure) == {"driver", "worker"}
    assert all(ends in path for (path,) in closure.values())
    assert closure["worker"][0].startswith("remote function use ")

    # Whoever is the only user of an object is named, too.
    kept = {name: [leak["actor"] for leak in each["leaks"]] for name, each in told.items()}
    assert kept == {
        "list in an actor": ["Cache"],
        "closure in a remote function": [],
        "exception traceback": ["Loader"],
        "reference cycle": ["Trees"],
        "borrowed by a long-lived actor": ["Registry"],
    }
