"""Fixtures of the tests that look at the dashboard with a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.support.profiled import Profiled, two_nodes_on_one_address
from tests.support.rays import VERSIONS, RayEnv, find_ray

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module", params=VERSIONS, ids=[f"ray-{version}" for version in VERSIONS])
def ray_env(request: pytest.FixtureRequest) -> RayEnv:
    """An environment with an official Ray and Mantaray; a test runs once with each of VERSIONS."""
    return find_ray(request.param)


@pytest.fixture(scope="module")
def profiled(ray_env: RayEnv) -> Iterator[Profiled]:
    """One cluster for all tests of a file with one Ray."""
    with two_nodes_on_one_address(ray_env) as started:
        yield started


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The system's Chromium; Playwright's own is not downloaded."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.fail("no Chromium is installed; `make test` installs it")
    return path


@pytest.fixture
def page(browser_path: str) -> Iterator[Page]:
    """A page of a browser that has never been anywhere."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path,
            # Chromium's sandbox refuses to run as root.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"],
        )
        page = browser.new_page(viewport={"width": 1400, "height": 800})
        page.set_default_timeout(45_000)
        yield page
        browser.close()
