"""The documentation's site: what its builder refuses, and that the generated pages are up to date."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from mantaray.overlay.hooks import OVERLAY

from tools import architecture, reference
from tools.docs import loaded_from_elsewhere
from tools.messages import Message, native_messages, python_messages


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://unpkg.com/mermaid"></script>',
        '<link rel="stylesheet" href="//fonts.example/a.css">',
        '<img src="http://badges.example/b.svg">',
    ],
)
def test_a_page_that_loads_from_another_server_is_found(html: str) -> None:
    assert len(loaded_from_elsewhere(html)) == 1


def test_links_that_a_reader_may_follow_are_allowed() -> None:
    html = '<a href="https://www.ray.io">Ray</a><script src="assets/a.js"></script>'
    assert loaded_from_elsewhere(html) == []


def test_the_reference_is_what_its_generator_makes() -> None:
    for name, text in reference.pages().items():
        assert (reference.PAGES / name).read_text() == text, f"{name}: run {reference.REMAKE}"


def test_every_command_and_option_is_in_the_reference() -> None:
    @click.group()
    def top() -> None:
        """All."""

    @top.command()
    @click.option("--size", metavar="BYTES", help="How large | small.")
    def inner(size: str) -> None:
        """Do it.

        And this.
        """

    page = reference.commands_page(top)
    assert "## mantaray inner" in page
    assert "Do it.\n\nAnd this." in page
    assert "| `--size BYTES` | How large \\| small. |" in page


def test_messages_are_found_with_what_is_filled_in(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.py").write_text(
        "raise CliError(f'{path} is no log' + end, 'name a log file')\n"
        "logger.warning('Directory %s is full.', path)\n"
        "raise AssertionError('only for us, never seen')\n"
    )
    assert list(python_messages(tmp_path)) == [
        Message("part", "… is no log…", "name a log file", "CliError"),
        Message("part", "Directory … is full.", "", "warning in a log"),
    ]


def test_messages_of_native_code_are_found_across_lines(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    call = 'return absl::NotFoundError(absl::StrCat(path, " lies (far) "\n "away, ", Name(x)));'
    (tmp_path / "part" / "a.cc").write_text(call)
    (tmp_path / "part" / "a_test.cc").write_text(call)
    assert list(native_messages(tmp_path)) == [
        Message("part", "… lies (far) away, …", "", "NotFoundError")
    ]


def test_the_picture_shows_every_patch_and_every_word_fits_its_box() -> None:
    OVERLAY.discover()
    processes = [process for _, column in architecture.COLUMNS for process in column]
    assert {patch for each in processes for patch in each.patches} == {
        patch.name for patch in OVERLAY.patches()
    }
    inside = architecture.COLUMN - 4 * architecture.PADDING
    for process in processes:
        assert all(len(line) * architecture.CHARACTER < 1.15 * inside for line in process.does)
        chips = sum(len(patch) * architecture.CHARACTER + 22 for patch in process.patches)
        assert chips - 8 <= inside
