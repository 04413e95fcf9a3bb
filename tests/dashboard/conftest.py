"""Fixtures of the tests that ask the dashboard for profiles, as a program and with a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.profiled import Profiled, two_nodes_on_one_address
from tests.support.rays import VERSIONS, RayEnv, find_ray

# What is waited for comes soon, or, on a machine with much else to do, late. Five seconds are the default.
PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Seconds each, more when memray's debugger fails: on the older Ray one of the two is enough for a test run.
_SLOW = "test_memory_link_on_the_page_of_an_actor_shows_its_process[ray-2.48.0-first]"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the test above as slow."""
    for item in items:
        if item.name == _SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="package", params=VERSIONS, ids=[f"ray-{version}" for version in VERSIONS])
def ray_env(request: pytest.FixtureRequest) -> RayEnv:
    """An environment with an official Ray and Mantaray; a test runs once with each of VERSIONS."""
    return find_ray(request.param)


@pytest.fixture(scope="package")
def profiled(ray_env: RayEnv) -> Iterator[Profiled]:
    """One cluster for all tests with one Ray."""
    with two_nodes_on_one_address(ray_env) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium; Playwright's own is not downloaded."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.fail("no Chromium is installed; `make test` installs it")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path,
            # Chromium's sandbox refuses to run as root.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"],
        )
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of somebody who has never been anywhere."""
    context = browser.new_context(viewport={"width": 1400, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    yield page
    context.close()
