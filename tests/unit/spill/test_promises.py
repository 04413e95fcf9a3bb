"""docs/spilling.md promises nothing that no test shows; see tests/support/promises.py."""

from __future__ import annotations

from tests.support.promises import REPOSITORY, names_of_tests, without_tests

PAGE = REPOSITORY / "docs" / "spilling.md"
# These describe the state of things without Mantaray, and figures that come from result files.
NO_PROMISES = ("The problem", "Measured")


def test_every_promise_of_the_page_on_spilling_names_tests_that_exist() -> None:
    assert without_tests(PAGE.read_text(), names_of_tests("spill"), NO_PROMISES) == []


def test_a_promise_without_a_test_is_found() -> None:
    page = """# Page

## Part

All is well.
<!-- tests: test_a -->

1. First.
   <!-- explains -->
2. Second.

| a | b |
| - | - |

<!-- tests: Suite.Name,
test_b -->
"""
    assert without_tests(page, {"test_a", "test_b", "Suite.Name"}, ()) == [
        "Part: no comment names the tests of: 2. Second."
    ]
    assert without_tests(page, {"test_a", "test_b"}, ())[-1] == "Part: no such test: Suite.Name"
