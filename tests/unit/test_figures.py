"""Every figure of README and docs comes from a result file, and the check finds those that do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rays import REPOSITORY
from tools import figures
from tools.figures import Results

PROVENANCE = dict.fromkeys(figures.PROVENANCE) | {"benchmark": "benchmarks/shuffle.py"}
SHUFFLE = {
    "conditions": "a store of 100 MB",
    "figures": {"stock_s": 37.4, "cut_off_s": {"above": 1200}},
    "tables": {"runs": {"head": ["arm", "s"], "rows": [["stock", "37.4"], ["ours", "20.6"]]}},
}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    (tmp_path / "shuffle.json").write_text(json.dumps(PROVENANCE | SHUFFLE))
    (tmp_path / "claim.md").write_text(
        "Stock Ray takes {{shuffle.stock_s}} s, ours {{shuffle.runs/ours/s}} s.\n"
    )
    (tmp_path / "broken.md").write_text("Stock Ray takes {{shuffle.gone}} s.\n")
    return Results(tmp_path, tmp_path)


def problems(text: str, results: Results, page: str = "docs/page.md") -> list[str]:
    return [str(problem) for problem in figures.problems(page, text, results)]


def test_every_figure_of_readme_and_docs_comes_from_a_result_file() -> None:
    of_the_repository = Results(figures.RESULTS, figures.TEMPLATES)
    found = [
        str(problem)
        for path in figures.pages()
        for problem in figures.problems(
            str(path.relative_to(REPOSITORY)), path.read_text(), of_the_repository
        )
    ]
    assert found == [], (
        f"tools/figures.py says how a page refers to a result file; {figures.REMAKE} fills the pages"
    )


def test_the_figures_of_the_relay_are_those_of_the_kept_runs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "benchmarks/sync_figures.py", str(tmp_path)], cwd=REPOSITORY, check=True
    )
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert len(made) == 3
    for name, text in made.items():
        assert (figures.RESULTS / name).read_text() == text, (
            f"{name}: run benchmarks/sync_figures.py"
        )


def test_a_page_is_filled_and_then_clean(results: Results) -> None:
    page = (
        "<!-- filled: claim -->\n<!-- /filled -->\n<!-- table: shuffle.runs -->\n<!-- /table -->\n"
    )
    assert len(problems(page, results)) == 2
    filled = figures.filled(page, results)
    assert "Stock Ray takes 37.4 s, ours 20.6 s." in filled
    assert "| ours | 20.6 |" in filled
    assert problems(filled, results) == []
    assert problems(filled.replace("20.6 |", "20.5 |"), results) != []


@pytest.mark.parametrize("name", ["filled: nothing", "filled: broken", "table: shuffle.gone"])
def test_a_mark_without_a_source_is_found(name: str, results: Results) -> None:
    kind = name.partition(":")[0]
    text = f"<!-- {name} -->\n\n1\n\n<!-- /{kind} -->\n"
    assert figures.filled(text, results) == text
    assert len(problems(text, results)) == 1


def test_a_figure_in_prose_that_its_result_file_lacks_is_found(results: Results) -> None:
    prose = (
        "<!-- figures: shuffle -->\n\nOn Ray 2.60, `x 5`: {} s in 100 MB.\n\n<!-- /figures -->\n"
    )
    assert problems(prose.format("37.4"), results) == []
    assert problems(prose.format("over 1,200"), results) == []
    assert problems(prose.format("37.5"), results) == [
        "docs/page.md:3: 37.5 stands in none of: shuffle"
    ]
    assert len(problems(prose.replace("shuffle", "unknown"), results)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Spilling runs at 219 MB/s.\n",
        "It is 7x as fast.\n",
        "It is 7 times as fast.\n",
        "## Measured\nIt takes 3 s.\n",
        "| run | s | MB | x |\n|---|---|---|---|\n| ours | 3 | 4.5 | > 1,200 |\n",
    ],
)
def test_a_figure_without_a_source_is_found(text: str, results: Results) -> None:
    assert len(problems(text, results)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The relay waits 25 ms, and Ray 2.48 has 3 knobs.\n",
        "```\n219 MB/s\n```\n",
        "<!-- design: the layout -->\n\n| a | 1 | 2 | 3 |\n|---|---|---|---|\n| b | 1 | 2 | 3 |\n",
        "## Measured\nOn 2026-11-30 with Ray 2.60.0.\n",
    ],
)
def test_what_is_no_measurement_needs_no_source(text: str, results: Results) -> None:
    assert problems(text, results) == []


def test_a_result_file_that_hides_where_it_comes_from_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bare.json").write_text(json.dumps({"figures": {"a": 1}}))
    with pytest.raises(ValueError, match=r"bare\.json does not say: benchmark, machine, date"):
        Results(tmp_path, tmp_path)


def test_what_a_benchmark_prints_becomes_a_result_file(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/results.py", str(tmp_path / "new.json")]
    command += ["--benchmark=bench.py", "--runs=one", "--conditions=none"]
    printed = json.dumps({"rows": [{"p99_ms": 3.5}], "met": True, "runs": 3})
    subprocess.run(command, input=printed, text=True, check=True, cwd=REPOSITORY)
    made = json.loads((tmp_path / "new.json").read_text())
    assert made["figures"] == {"rows.0.p99_ms": 3.5, "runs": 3}
    assert made["benchmark"] == "bench.py"
    assert made["machine"] and made["date"] and made["commit"]
    (tmp_path / "claim.md").write_text("{{new.rows.0.p99_ms}} ms\n")
    assert "3.5 ms" in Results(tmp_path, tmp_path).filled("claim")


def test_figures_without_a_source_are_adopted_with_what_the_page_says(
    results: Results, tmp_path: Path
) -> None:
    page = (
        "## Measured\nIt takes 3 s.\nAnd 4 s.\n\n- a list, 5 s\n- of two\n\n"
        "| run | s | MB | x |\n|---|---|---|---|\n| ours | 3 | 4.5 | > 1,200 |\n\nThe end.\n"
    )
    made, found = figures.adopted("page-adopted", "docs/page.md", page, results)
    (tmp_path / "page-adopted.json").write_text(json.dumps(PROVENANCE | found))
    with_it = Results(tmp_path, tmp_path)
    assert problems(figures.filled(made, with_it), with_it) == []
    assert next(iter(found["tables"].values()))["rows"] == [["ours", "3", "4.5", "> 1,200"]]
    assert len(problems(made.replace("4 s", "4.1 s"), with_it)) > 0
    assert figures.adopted("page-adopted", "docs/page.md", made, with_it)[1] == {}


def test_what_a_person_changed_inside_the_marks_is_not_lost(results: Results) -> None:
    page = (
        "<!-- table: shuffle.runs -->\n<!-- /table -->\n"
        "<!-- figures: shuffle -->\n\nIn 7 s.\n\n<!-- /figures -->\n"
    )
    changed = figures.filled(page, results).replace("20.6", "19.9")
    newer = figures.newer_on_page("docs/page.md", changed, results)["shuffle"]
    assert newer["tables"]["runs"]["rows"] == [["stock", "37.4"], ["ours", "19.9"]]
    assert newer["figures"] == {"In 7 s.": "In 7 s."}
    right = figures.filled(page, results).replace("In 7", "In 37.4")
    assert figures.newer_on_page("docs/page.md", right, results) == {}


def test_a_row_is_named_by_as_many_cells_as_tell_it_from_the_others(tmp_path: Path) -> None:
    rows = [["2.48", "direct", "96"], ["2.48", "relays", "64"], ["2.60", "direct", "65"]]
    tables = {"groups": {"head": ["Ray", "arm", "groups/s"], "rows": rows}}
    (tmp_path / "sync.json").write_text(json.dumps(PROVENANCE | SHUFFLE | {"tables": tables}))
    found = Results(tmp_path, tmp_path)
    assert found.figure("sync.groups/2.48 relays/groups/s") == "64"
    assert found.figure("sync.groups/2.60/groups/s") == "65"
    with pytest.raises(KeyError, match=r"2 rows of sync\.groups begin with 2\.48"):
        found.figure("sync.groups/2.48/groups/s")


@pytest.mark.parametrize(
    "told",
    [
        "The tool took 35 s for one release.",
        "A crash was noticed late (20 ms in our tests).",
        "Eight workers are slow: the shuffle took\n94 s.",
    ],
)
def test_a_sentence_that_tells_what_was_seen_needs_a_source_in_any_section(
    results: Results, told: str
) -> None:
    assert len(problems(f"# How it works\n\n{told}\n", results)) == 1
    assert problems("# How it works\n\nThe window is 25 ms.\n", results) == []
