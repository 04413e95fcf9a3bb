"""How good answers are, on all labelled questions and a part of the corpus."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import labels
import quality

from knowledge.embedding import SentenceEmbedder

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


def test_a_follow_up_is_answered_by_the_sentence_that_says_it(tmp_path: Path) -> None:
    """The words of the question before outnumber those of the follow-up, and once hid the answer."""
    asked = labels.Question(
        manner="multi-sentence",
        ask="And what does it do with a circular reference?",
        uris=("doc://python/json.dumps", "doc://python/json.dump"),
        says=r"circular reference",
        before="What does json.dumps do?",
    )
    embedder = quality.KeptEmbedder(SentenceEmbedder(threads=os.cpu_count()))
    memory = quality.index(quality.sample([asked], 20), tmp_path / "memory.db", embedder)
    try:
        (verdict,) = asyncio.run(quality.judge([asked], "adaptive", memory, embedder))
    finally:
        memory.close()
    # The best sentence stands first, and nothing beside the point follows it.
    assert verdict.right, verdict.text
    assert verdict.text.startswith("If ``check_circular`` is false"), verdict.text
    assert "[2]" not in verdict.text
