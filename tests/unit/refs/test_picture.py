"""The picture of an object's holders, and the lines about variables in the text."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mantaray.refs import picture, why
from mantaray.refs.cluster import Held, Process
from mantaray.refs.paths import Paths

OBJECT = "00" * 27 + "01"
OUTER = "00" * 27 + "02"
OWNED = Held(OBJECT, 1_000, 1, 0, False, (), "", "FINISHED")
BORROWED = Held(OBJECT, None, 2, 0, False, (OUTER,), "", "")
DRIVER = Process("aa", 1, "127.0.0.2:1", "driver", held=(OWNED,))
ACTOR = Process("bb", 2, "127.0.0.2:2", "worker", "Cache", (BORROWED,))
SILENT = Process("cc", 3, "127.0.0.2:3", "worker", problem='no "answer"')


def found(**paths: Paths) -> why.Why:
    return replace(why.explain(OBJECT, [DRIVER, ACTOR, SILENT]), paths=paths)


def test_variables_stand_below_their_process() -> None:
    told = found(
        aa=Paths(problem="nobody listens"), bb=Paths(1, ("actor Cache.kept['k']",), stop_ms=2.0)
    )
    assert why.text(told).splitlines() == [
        f"object {OBJECT}, 1,000 bytes",
        "owned by driver, process 1 at 127.0.0.2:1",
        "  1 local reference",
        "    its variables are not known: nobody listens",
        "held by actor Cache, process 2 at 127.0.0.2:2",
        "  2 local references",
        f"  a reference to it is inside its object {OUTER}",
        "    actor Cache.kept['k']",
        "    1 reference of Ray's own: a task under way, or a reference that was pickled by hand or with"
        " a function, which Ray keeps",
        'not asked: worker, process 3 at 127.0.0.2:3: no "answer"',
    ]


def test_references_that_are_not_shown_and_a_cut_search_are_told() -> None:
    told = Paths(9, ("actor Cache.kept[0]",), cut_off=True)
    assert why.variables(told, replace(BORROWED, local_refs=12)) == [
        "actor Cache.kept[0]",
        "and 8 more Python references",
        "the search was cut off; allow more time with --path-timeout-s",
    ]


def test_description_names_everything_and_escapes_it() -> None:
    text = picture.dot(found(bb=Paths(1, ('actor Cache.kept["k"]',))))
    assert text.startswith("digraph holders {")
    assert "p0 -> object" in text
    assert f"o{OUTER} -> object" in text
    assert 'p1_0 [shape=note, label="actor Cache.kept[\\"k\\"]"]' in text
    assert 'not asked: no \\"answer\\"' in text


def test_svg_is_what_graphviz_makes_of_it(tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not there: tools/setup test-packages installs it")
    picture.write_svg(found(bb=Paths(1, ("actor Cache.kept[0]",))), tmp_path / "holders.svg")
    svg = (tmp_path / "holders.svg").read_text()
    assert "actor Cache.kept[0]" in svg
    assert svg.rstrip().endswith("</svg>")


def test_missing_graphviz_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(picture.NoGraphvizError, match="dot of Graphviz is not installed"):
        picture.write_svg(found(), tmp_path / "holders.svg")
    assert not (tmp_path / "holders.svg").exists()
