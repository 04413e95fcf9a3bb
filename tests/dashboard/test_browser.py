"""The dashboard in a real browser: links to profilers lead to the process that they belong to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.profiled import Profiled, Worker

pytestmark = pytest.mark.needs_root
STACK, CPU, MEMORY = "Stack\xa0Trace", "CPU\xa0Flame\xa0Graph", "Memory\xa0Profiling"
# Where to put pictures of what was seen; none are made without it.
PICTURES = os.environ.get("MANTARAY_TEST_PICTURES")


def open_actor(page: Page, profiled: Profiled, worker: Worker) -> Locator:
    """Show the page of the actor in a worker; return what holds its links."""
    page.goto(f"{profiled.cluster.dashboard_url}/#/actors/{worker.actor_id}")
    expect(page.get_by_text(STACK).first).to_be_visible()
    return page.locator("body")


def follow(page: Page, place: Locator, words: str, picture: str = "") -> tuple[int, str, str]:
    """Click on a link as a person would, through the dialog if one opens.

    Returns:
        Status, address and text of what the browser shows in the end.
    """
    link = place.get_by_text(words).first
    answers: list[Any] = []
    page.context.on("response", lambda answer: answers.append(answer))
    if link.evaluate("e => !!e.closest('a[href][target]')"):
        _picture(page, picture)
        with page.expect_popup() as popup:
            link.click()
    else:
        link.click()
        submit = page.get_by_role("dialog").get_by_text(re.compile("Generate|Get stack"))
        expect(submit).to_be_visible()
        duration = page.get_by_role("dialog").locator("input[type=number], input[type=text]")
        if duration.count():
            duration.first.fill("1")
        _picture(page, picture)
        with page.expect_popup() as popup:
            submit.click()
    shown = popup.value
    shown.wait_for_load_state(timeout=120_000)
    answer = [a for a in answers if a.url == shown.url][-1]
    text = answer.text()
    _picture(shown, f"{picture}-shown" if picture else "")
    return answer.status, shown.url, text


def _picture(page: Page, name: str) -> None:
    if PICTURES and name:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))


@pytest.mark.parametrize("words", [STACK, CPU])
@pytest.mark.parametrize("name", ["first", "second"])
def test_link_on_the_page_of_an_actor_shows_its_process(
    profiled: Profiled, page: Page, name: str, words: str
) -> None:
    worker: Worker = getattr(profiled, name)
    place = open_actor(page, profiled, worker)
    short = "stack" if words == STACK else "cpu"
    version = profiled.cluster.env.version
    status, url, text = follow(page, place, words, f"actor-{short}-{name}-{version}")
    assert status == 200, text
    assert f"node_id={worker.node_id}" in url
    assert worker.frame in text
    assert profiled.other(worker).frame not in text


@pytest.mark.parametrize("name", ["first", "second"])
def test_memory_link_on_the_page_of_an_actor_shows_its_process(
    profiled: Profiled, page: Page, name: str
) -> None:
    # A process may die of the debugger that memray attaches with; its node was the right one then.
    for _ in range(4):
        worker = profiled.new_worker(name)
        place = open_actor(page, profiled, worker)
        picture = f"actor-memory-{name}-{profiled.cluster.env.version}"
        status, url, text = follow(page, place, MEMORY, picture)
        assert f"node_id={worker.node_id}" in url
        if status == 200:
            break
    assert status == 200, text
    assert worker.frame in text
    assert profiled.other(worker).frame not in text


@pytest.mark.parametrize("name", ["first", "second"])
def test_links_of_a_node_s_workers_show_their_process(
    profiled: Profiled, page: Page, name: str
) -> None:
    worker: Worker = getattr(profiled, name)
    if name == "second" and profiled.cluster.env.version == "2.48.0":
        pytest.skip("2.48's agent takes the head's address for the head and reports no workers")
    page.goto(f"{profiled.cluster.dashboard_url}/#/cluster")
    node = page.locator("tr", has=page.get_by_text(worker.node_id))
    node.locator("td").first.locator("button").click()
    row = page.locator("tr", has=page.get_by_text(str(worker.pid), exact=True))
    row = row.filter(has_text=STACK).first
    status, url, text = follow(page, row, STACK)
    assert status == 200, text
    assert f"node_id={worker.node_id}" in url
    assert worker.frame in text


@pytest.mark.parametrize("name", ["first", "second"])
def test_links_in_the_table_of_actors_show_their_process(
    profiled: Profiled, page: Page, name: str
) -> None:
    worker: Worker = getattr(profiled, name)
    page.goto(f"{profiled.cluster.dashboard_url}/#/actors")
    row = page.locator("tr", has=page.get_by_text(worker.actor_id)).first
    _picture(page, f"actors-{profiled.cluster.env.version}")
    status, url, text = follow(page, row, STACK)
    assert status == 200, text
    assert f"node_id={worker.node_id}" in url
    assert worker.frame in text


_DRIVER = """
import ray, time
ray.init()
def work_of_driver():
    while True:
        time.sleep(0.01)
print("be" + "gins", flush=True)
work_of_driver()
"""


def wait_for_words(url: str, words: str) -> None:
    """Wait until a log has these words, which are not in the command that Ray may write there."""
    # Ray 2.48 fails at requests that do not name their agent.
    asked = urllib.request.Request(url, headers={"User-Agent": "test"})
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(urllib.error.HTTPError):
            with urllib.request.urlopen(asked, timeout=60) as reply:
                said = json.load(reply)["logs"]
            if words in said:
                return
        assert time.monotonic() < deadline, f"{url} does not say {words!r}"
        time.sleep(0.2)


def test_link_in_the_table_of_jobs_shows_the_driver_of_a_submitted_job(
    profiled: Profiled, page: Page
) -> None:
    url = profiled.cluster.dashboard_url
    job = {"entrypoint": f"python -c {shlex.quote(_DRIVER)}"}
    data = json.dumps(job).encode()
    asked = urllib.request.Request(
        f"{url}/api/jobs/", data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as reply:
        submission_id = json.load(reply)["submission_id"]
    wait_for_words(f"{url}/api/jobs/{submission_id}/logs", "begins")
    page.goto(f"{url}/#/jobs")
    row = page.locator("tr", has=page.get_by_text(submission_id)).first
    status, shown, text = follow(page, row, STACK)
    stopped = urllib.request.Request(f"{url}/api/jobs/{submission_id}/stop", method="POST")
    urllib.request.urlopen(stopped, timeout=60).close()
    assert status == 200, text
    # On either node: Ray places drivers where it likes.
    assert any(f"node_id={w.node_id}" in shown for w in (profiled.first, profiled.second))
    assert "work_of_driver" in text


@pytest.mark.parametrize("name", ["first", "second"])
def test_old_link_by_ip_typed_into_the_browser_shows_the_process(
    profiled: Profiled, page: Page, name: str
) -> None:
    worker: Worker = getattr(profiled, name)
    query = f"pid={worker.pid}&ip={profiled.ip}&native=0"
    answer = page.goto(f"{profiled.cluster.dashboard_url}/worker/traceback?{query}")
    assert answer is not None
    assert answer.status == 200, answer.text()
    assert page.url.endswith(f"node_id={worker.node_id}")
    assert worker.frame in page.inner_text("body")


def test_page_works_without_errors_and_its_script_has_an_address_of_its_own(
    profiled: Profiled, page: Page
) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    url = profiled.cluster.dashboard_url
    scripts: list[str] = []
    page.on("response", lambda answer: scripts.append(answer.url))
    for place in ("overview", "jobs", "cluster", "actors", "logs"):
        page.goto(f"{url}/#/{place}")
        page.wait_for_timeout(300)
    assert errors == []
    main = {script for script in scripts if "/js/main." in script}
    edited = {script for script in main if "?mantaray=" in script}
    assert main
    # 2.60 has links by node id of its own.
    assert edited == (main if profiled.cluster.env.version == "2.48.0" else set())
