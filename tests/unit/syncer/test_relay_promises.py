"""docs/relay.md promises nothing about failures and limits that no test shows."""

from __future__ import annotations

from tests.support.promises import REPOSITORY, names_of_tests, without_tests

PAGE = REPOSITORY / "docs" / "relay.md"
# These describe Ray without a relay, say what to type, or hold figures that come from result files.
NO_PROMISES = (
    *("The problem", "When, how many, where", "From Python", "systemd", "Kubernetes"),
    *("Rolling out on KubeRay, step by step", "Watching it", "Rolling it out, and back"),
    *("Cost", "Why completion queues"),
)


def test_every_promise_of_the_relays_page_names_tests_that_exist() -> None:
    known = names_of_tests("relay", "syncer", "sim")
    assert without_tests(PAGE.read_text(), known, NO_PROMISES) == []
