"""docs/compatibility.md is what its generator makes, and shows what the smoke found, good or bad."""

from __future__ import annotations

from typing import Any

from tests.support.compatibility import PAGE, known_releases, make_page, read_results


def test_the_page_is_what_its_generator_makes() -> None:
    made = make_page(known_releases(), read_results())
    assert PAGE.read_text() == made, "run `.venv/bin/python -m tests.support.compatibility`"


def outcome(state: str, ok: bool) -> dict[str, Any]:
    work = {"did": "worked", "figure": "pieces", "stock": 2, "ours": None, "ok": ok}
    told = {"summary": "works", "plain_since": None, "enough_since": "2.50"}
    return told | {"state": state, "why": "", "processes": 1, "work": work, "ok": ok}


def result(ray: str, **patches: dict[str, Any]) -> dict[str, Any]:
    seen = {"ray": ray, "python": "3.11.7", "date": "2026-01-02", "commit": "abc"}
    return seen | {"patches": patches}


def test_a_refused_patch_and_a_release_without_a_run_are_shown() -> None:
    old = result("2.9.0", a=outcome("refused", False))
    new = result("2.10.0", a=outcome("active", True), b=outcome("native", True))
    page = make_page(["2.9.0", "2.9.1", "2.10.0"], [old, new])
    assert [line for line in page.splitlines() if "| 2." in line and "works" not in line] == [
        "| 2.9.0 | 3.11.7 | 2026-01-02 (abc) | **no** | - |",
        "| 2.9.1 |  | not run yet |  |  |",
        "| 2.10.0 | 3.11.7 | 2026-01-02 (abc) | yes | native |",
        # The figures of a, then those of b.
        "| 2.9.0 | 3.11.7 | 2 | no such thing |",
        "| 2.10.0 | 3.11.7 | 2 | no such thing |",
        "| 2.10.0 | 3.11.7 | 2 | no such thing |",
    ]
    assert "| b | works | none | 2.50 |" in page
