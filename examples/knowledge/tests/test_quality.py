"""How good answers are, on all labelled questions and a part of the corpus."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import labels
import quality

DOCUMENTS = 500


def test_adaptive_is_nowhere_worse_than_the_better_of_words_and_meaning() -> None:
    questions = labels.load()
    verdicts = quality.evaluate(questions, DOCUMENTS)

    rows = quality.table(verdicts)
    shown = quality.markdown(rows)
    assert quality.shortfalls(rows) == [], shown
    overall = rows[-1]
    assert overall["questions"] == len(questions)
    # Far below what is measured: these say that the pipeline works, not how well.
    assert overall["adaptive recall"] > 0.85, shown
    assert overall["adaptive hit rate"] > 0.6, shown
    # Each strategy was really carried out.
    for strategy in ("lexical", "vector"):
        assert {verdict.chose for verdict in verdicts[strategy]} == {strategy}
    assert len({verdict.chose for verdict in verdicts["adaptive"]}) > 1
