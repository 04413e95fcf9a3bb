"""`mantaray report` in a real browser: a made-up cluster with all there is, and a running one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.profiled import Profiled
from tests.support.relays import RelayProcess
from tests.support.reports import whole_report

PICTURES = os.environ.get("MANTARAY_TEST_PICTURES")
PHONE, DESK = (360, 740), (1280, 900)
_WIDER_THAN_THE_WINDOW = (
    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
)
# Names of lines must not leave their picture.
_TEXTS_OUTSIDE = """
[...document.querySelectorAll("svg")].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const own = text.getBoundingClientRect();
    return own.left < frame.left - 1 || own.right > frame.right + 1 || own.bottom > frame.bottom + 1;
  }).map(text => text.textContent);
})
"""
_CONTRASTS = """
[...document.querySelectorAll("p, li, td, th, h1, h2, h3, figcaption")].map(element => {
  const luminance = colour => {
    const [r, g, b] = colour.match(/\\d+/g).slice(0, 3).map(Number).map(value => {
      const part = value / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element.closest(".card") || document.body);
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor]
    .map(luminance).sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
})
"""


@pytest.fixture(params=["light", "dark"])
def offline(request: pytest.FixtureRequest, browser: Browser) -> Iterator[tuple[Page, str]]:
    """A page without a network, and the colours that its reader prefers."""
    context = browser.new_context(color_scheme=request.param, offline=True)
    yield context.new_page(), request.param
    context.close()


def look(page: Page, file: Path, size: tuple[int, int], name: str) -> None:
    """Open a report in a window; fail if something is missing, hidden, cut off or loaded."""
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(file.as_uri())
    assert (errors, asked) == ([], [file.as_uri()])
    assert page.evaluate(_WIDER_THAN_THE_WINDOW) <= 0
    assert page.evaluate(_TEXTS_OUTSIDE) == []
    # 4.5 is what the guidelines for accessible content ask for.
    assert min(page.evaluate(_CONTRASTS)) >= 4.5
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"report-{name}.png"), full_page=True)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_report_of_a_busy_cluster_can_be_read_without_a_network(
    offline: tuple[Page, str], size: tuple[int, int], tmp_path: Path
) -> None:
    page, colours = offline
    file = tmp_path / "report.html"
    file.write_text(whole_report())
    look(page, file, size, f"busy-{colours}-{size[0]}")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert dark == (colours == "dark")
    assert page.locator("svg").count() == 5
    for svg in page.locator("svg").all():
        assert svg.get_attribute("aria-label")


_SPILL_AND_REPORT = """
import json, subprocess, sys
import numpy as np
import ray

ray.init(log_to_driver=False)
kept = [ray.put(np.ones(2_000_000, dtype=np.uint8)) for _ in range(90)]
command = [sys.prefix + "/bin/mantaray", "report", *sys.argv[1:]]
done = subprocess.run(command, capture_output=True, text=True)
print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""


@pytest.mark.parametrize("ray_env", ["2.60.0"], ids=["ray-2.60.0"], indirect=True, scope="package")
def test_report_of_a_running_cluster(profiled: Profiled, browser: Browser, tmp_path: Path) -> None:
    cluster = profiled.cluster
    file = tmp_path / "report.html"
    with RelayProcess(cluster.env, cluster.address, tmp_path) as relay:
        # Agents renew their figures every five seconds.
        arguments = ["-o", str(file), "--relay", relay.admin, "--seconds=6", "--every=2"]
        status, out, errors = cluster.run_program(_SPILL_AND_REPORT, arguments)
    assert (status, out) == (0, f"{file} is written\n"), errors
    context = browser.new_context(offline=True)
    page = context.new_page()
    look(page, file, PHONE, "live")
    text = page.inner_text("body")
    context.close()
    for worker in (profiled.first, profiled.second):
        assert worker.node_id[:8] in text
    assert "spill attached" in text
    assert "The cluster spilled" in text
    assert f"Relay at {relay.admin}" in text
    assert "No router of Ray Serve reports requests in this time." in text
    assert "Nothing." in text
