"""The pages in a real browser: asking, sources and timings, errors, and use without a mouse."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from served import Served

# What is waited for comes soon, or, on a machine with much else to do, late. Five seconds are the default.
PATIENCE_MS = 90_000
expect.set_options(timeout=PATIENCE_MS)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A browser with nothing but this machine; whatever it asks of another fails the tests."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.fail("no Chromium is installed; `make test-knowledge` installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            # Chromium's sandbox refuses to run as root.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"],
        )
        made = browser.new_page()
        made.set_default_timeout(PATIENCE_MS)
        yield made
        browser.close()


@pytest.fixture(autouse=True)
def troubles(page: Page, running: Served) -> Iterator[list[str]]:
    """Open the page anew; the script's errors and requests elsewhere fail the test at its end."""
    found: list[str] = []

    def error(problem: object) -> None:
        found.append(f"error: {problem}")

    def request(asked: object) -> None:
        url = getattr(asked, "url", "")
        if not url.startswith((running.url, "data:")):
            found.append(f"request to {url}")

    page.on("pageerror", error)
    page.on("request", request)
    page.goto(running.url)
    yield found
    page.remove_listener("pageerror", error)
    page.remove_listener("request", request)
    assert found == []


def ask(page: Page, question: str) -> None:
    """Ask with the keyboard alone."""
    box = page.get_by_label("Question")
    expect(box).to_be_focused()
    page.keyboard.type(question)
    page.keyboard.press("Enter")


def test_answer_is_shown_with_sources_plan_and_time(page: Page) -> None:
    ask(page, "What does heapq.merge do?")
    article = page.get_by_role("article").first
    expect(article.get_by_role("heading", name="What does heapq.merge do?")).to_be_visible()
    expect(article.locator(".answer")).to_contain_text("Merge multiple sorted inputs")
    expect(article.get_by_role("listitem").first).to_contain_text("doc://python/heapq.merge")
    expect(page.get_by_role("status")).to_have_text("Answered.")
    # Ready for the next question.
    expect(page.get_by_label("Question")).to_be_focused()
    expect(page.get_by_label("Question")).to_have_value("")
    article.get_by_text("Plan: lexical").click()
    expect(article.get_by_text("heapq.merge (contextual; lexical #1)")).to_be_visible()
    article.get_by_text("Time:").click()
    row = article.get_by_role("row", name="retrieve")
    expect(row).to_be_visible()
    assert float(row.get_by_role("cell").last.inner_text()) >= 0


def test_follow_up_stands_above_what_was_asked_before_and_a_new_session_forgets_it(
    page: Page,
) -> None:
    ask(page, "What does numpy.median do?")
    expect(page.get_by_role("article")).to_have_count(1)
    ask(page, "What does it return?")
    expect(page.get_by_role("article")).to_have_count(2)
    first = page.get_by_role("article").first
    expect(first.get_by_role("heading").first).to_have_text("What does it return?")
    expect(first.locator(".answer")).to_contain_text("Returns the median of the array elements.")
    before = page.locator("#session").inner_text()
    page.get_by_role("button", name="Start a new session").click()
    expect(page.get_by_role("article")).to_have_count(0)
    assert page.locator("#session").inner_text() != before


def test_not_knowing_is_shown_as_such(page: Page) -> None:
    ask(page, "What is the capital of Mongolia?")
    article = page.get_by_role("article").first
    expect(article.locator(".answer")).to_contain_text("I do not know")
    expect(article.get_by_role("heading", name="Sources")).to_have_count(0)


def test_markup_in_a_question_is_text_on_the_page(page: Page) -> None:
    nasty = "<img src=x onerror=alert(1)><b>shlex.quote</b>?"
    ask(page, nasty)
    expect(page.get_by_role("article").first.get_by_role("heading").first).to_have_text(nasty)
    assert page.locator("article img, article b").count() == 0


def test_error_is_told_and_the_question_stays(page: Page) -> None:
    page.route(
        "**/ask",
        lambda route: route.fulfill(
            status=429,
            headers={"Retry-After": "3", "Content-Type": "application/json"},
            body='{"error": "QueueFull", "message": "256 queries are waiting already"}',
        ),
    )
    ask(page, "What does heapq.merge do?")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("256 queries are waiting already")
    expect(alert).to_contain_text("Try again in 3 s.")
    expect(page.get_by_label("Question")).to_have_value("What does heapq.merge do?")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    page.unroute("**/ask")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article")).to_have_count(1)
    expect(alert).to_have_text("")


@pytest.mark.parametrize("address", ["/", "/docs"])
def test_page_can_be_used_with_a_screen_reader(page: Page, running: Served, address: str) -> None:
    page.goto(running.url + address)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, button, a")].filter(e =>
            !(e.textContent.trim() || e.getAttribute("aria-label") || (e.labels && e.labels.length)))
            .map(e => e.outerHTML)"""
    )
    assert unnamed == []
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
    ask(page, "What does heapq.merge do?")
    expect(page.get_by_role("article")).to_have_count(1)
    ratios = page.evaluate(
        """() => {
          const channel = c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
          const light = rgb => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number).map(channel);
            return .2126 * r + .7152 * g + .0722 * b; };
          const back = light(getComputedStyle(document.body).backgroundColor);
          return ["body", ".hint", "q", "code", "a", "#problem"].map(selector => {
            const front = light(getComputedStyle(document.querySelector(selector)).color);
            return (Math.max(front, back) + .05) / (Math.min(front, back) + .05); });
        }"""
    )
    assert min(ratios) >= 4.5, ratios


def test_narrow_screen_needs_no_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    ask(page, "What does heapq.merge do with a very_long_name_" + "x" * 200)
    expect(page.get_by_role("article")).to_have_count(1)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1000, "height": 800})


def test_interface_is_described_without_anything_from_elsewhere(
    page: Page, running: Served
) -> None:
    page.goto(f"{running.url}/docs")
    expect(page.get_by_role("heading", name="POST /ask")).to_be_visible()
    article = page.get_by_role("article").filter(has_text="POST /ask")
    article.get_by_text("Request", exact=True).click()
    expect(article).to_contain_text('"deadline_ms"')
    expect(article.get_by_text("Reply 429")).to_be_visible()
