"""`mantaray refs why`, `refs top` and `refs leaks` on a cluster that was not started for them."""

from __future__ import annotations

from pathlib import Path

from tests.support.rays import RayEnv

PROGRAM = Path(__file__).parent / "programs" / "refs_why.py"


def test_holders_of_an_object_are_told_with_their_reasons(ray_env: RayEnv) -> None:
    told = ray_env.run_program(PROGRAM)
    why = told["why"]
    assert why["owner"]["pid"] == told["driver"]
    assert why["owner"]["kind"] == "driver"
    assert why["size_bytes"] >= 1_000_000
    owner, borrower = why["holders"]
    assert owner["owner"]
    assert owner["local_refs"] == 1
    assert (borrower["pid"], borrower["actor"]) == (told["cache"], "Cache")
    assert not borrower["owner"]
    assert borrower["contained_in"] == [told["outer"]]
    assert any(told["outer"] in reason for reason in borrower["why"])
    assert why["silent"] == []

    assert told["top"][0]["object_id"] == told["id"]
    assert len(told["top"][0]["holders"]) == 2

    # The three of `leak` and the object of `wrap`. The driver uses the large one as well.
    (leak,) = [leak for leak in told["leaks"] if leak["pid"] == told["cache"]]
    assert (leak["objects"], leak["grown"], leak["actor"]) == (4, 0, "Cache")
    assert 600_000 <= leak["size_bytes"] < 1_000_000

    status, found, stderr = told["unknown"]
    assert (status, found["holders"]) == (1, [])
    assert "no process that answered knows it" in stderr
    status, found, stderr = told["no id"]
    assert (status, found) == (1, None)
    assert "an id has 56 hexadecimal digits" in stderr

    # The actor was stopped: it is named, and the owner is told of all the same.
    hanging = told["hanging"]
    assert hanging["owner"]["pid"] == told["driver"]
    assert [process["pid"] for process in hanging["silent"]] == [told["cache"]]
    assert "no answer within 5 s" in hanging["silent"][0]["problem"]
