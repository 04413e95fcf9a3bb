"""Messages of failed jobs whose logs are hard to read, in live clusters of both Rays."""

from __future__ import annotations

from pathlib import Path

from tests.support.rays import RayEnv, short_directory

PROGRAMS = Path(__file__).with_name("programs")


def test_message_of_a_job_that_printed_2_gb_in_one_line_arrives(ray_env: RayEnv) -> None:
    with short_directory() as root:
        seen = ray_env.run_program(PROGRAMS / "logs_jobs.py", [root, "2000"])
    print(seen)
    for job in seen.values():
        assert "FAILED" in job["status"]
        # Stock Ray takes minutes, or all of the memory.
        assert job["after_s"] < 20
        assert job["memory_mb"] < 500
    assert 20_000 <= seen["endless"]["chars"] < 20_500
    assert seen["endless"]["end"] == "x" * 59 + "y"
    assert seen["bars"]["end"].endswith("start\n19999 of 20000")
    assert seen["bars"]["chars"] < 500
    # A line or two of Ray's own.
    assert seen["silent"]["end"].endswith("\n")
    assert seen["silent"]["chars"] < 1000
