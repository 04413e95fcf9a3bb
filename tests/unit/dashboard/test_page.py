"""The front end that is served in place of Ray's: only the one it was written for is edited."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from mantaray.dashboard.page import Edit, PageError, apply, read_page

from tests.support.rays import find_ray

SCRIPT = "static/js/main.8ae11c96.js"


def front_end(version: str) -> Path:
    """Return where an official Ray has its compiled front end."""
    code = "import importlib.util as u; print(u.find_spec('ray').submodule_search_locations[0])"
    found = subprocess.run(
        [find_ray(version).python, "-c", code], capture_output=True, text=True, check=True
    )
    return Path(found.stdout.strip()) / "dashboard" / "client" / "build"


def copy(build: Path, to: Path) -> Path:
    """Copy what is read of a front end."""
    (to / SCRIPT).parent.mkdir(parents=True)
    for name in ("index.html", SCRIPT):
        (to / name).write_bytes((build / name).read_bytes())
    return to


def test_edit_that_finds_too_few_or_too_many_places_changes_nothing() -> None:
    edit = Edit(r"a(\d)", r"b\1", 2, "letters")
    assert apply([edit], "a1 a2") == "b1 b2"
    for text in ("a1", "a1 a2 a3"):
        with pytest.raises(PageError, match="instead of 2 for: letters"):
            apply([edit], text)


def test_ray_2_48_s_page_gets_node_ids_in_links_of_workers_and_keeps_those_of_tasks() -> None:
    build = front_end("2.48.0")
    stock = (build / SCRIPT).read_text()
    page = read_page(build)
    edited = page.script.decode()
    assert edited.count('$?"&node_id="+$:""') == 3
    # Five places that show links, three links each.
    assert edited.count("nodeId:") - stock.count("nodeId:") == 3 + 5 * 3
    for task_link in ("task/traceback?", "task/cpu_profile?", "memory_profile?task_id="):
        assert edited.count(task_link) == stock.count(task_link) == 1
    assert f"main.8ae11c96.js?mantaray={page.version}".encode() in page.index


def test_files_of_ray_stay_as_they_are() -> None:
    build = front_end("2.48.0")
    before = {name: (build / name).read_bytes() for name in ("index.html", SCRIPT)}
    read_page(build)
    assert before == {name: (build / name).read_bytes() for name in before}


@pytest.mark.parametrize("name", ["index.html", SCRIPT])
def test_front_end_with_one_other_byte_is_refused(tmp_path: Path, name: str) -> None:
    build = copy(front_end("2.48.0"), tmp_path)
    with open(build / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(PageError, match="is not the page that the edits were written for"):
        read_page(build)


def test_front_end_of_another_release_is_refused() -> None:
    with pytest.raises(PageError, match=r"index\.html is not the page"):
        read_page(front_end("2.60.0"))


def test_missing_front_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="cannot be read"):
        read_page(tmp_path)
