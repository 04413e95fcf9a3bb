"""The tutorial of the documentation does what it says, on Ray as it came and with Mantaray."""

from __future__ import annotations

import re

from tests.support.rays import REPOSITORY, find_ray, short_directory

PAGE = REPOSITORY / "docs" / "tutorial.md"
ARMS = {"stock": {"MANTARAY_DISABLE": "1"}, "mantaray": {}}


def test_the_tutorials_program_shows_what_the_page_says() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    left_mb = {}
    for arm, variables in ARMS.items():
        with short_directory() as directory:
            # The harness wants JSON at the end.
            done = find_ray("2.60.0").run(
                program + "print(0)\n", [directory / "spilled"], variables
            )
        assert "the kept objects are intact" in done.stdout
        (shown,) = re.findall(r"on disk with 20 MB in use: (\d+) MB", done.stdout)
        left_mb[arm] = int(shown)
    assert left_mb["mantaray"] <= 21
    assert left_mb["stock"] > 150
