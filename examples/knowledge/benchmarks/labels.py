"""The labelled questions of questions.yaml, and what counts as finding and as answering."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

QUESTIONS = Path(__file__).with_name("questions.yaml")
# Nothing was ever tuned with these.
UNSEEN = Path(__file__).with_name("questions-unseen.yaml")
UNANSWERABLE = "unanswerable"
_MARK = re.compile(r"\s*\[\d+\]")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and what is known of its answer.

    Args:
        manner: its class, a key of questions.yaml.
        ask: the question.
        uris: the documents that answer it; none when nothing does.
        says: a regular expression that a right answer contains.
        before: asked in the same session first; empty for none.
    """

    manner: str
    ask: str
    uris: tuple[str, ...] = ()
    says: str = ""
    before: str = ""

    def found_in(self, uris: Iterable[str]) -> bool:
        """Return whether a document that answers is among these."""
        return not set(self.uris).isdisjoint(uris)

    def is_answered_by(self, text: str, known: bool) -> bool:
        """Return whether an answer is right: says what it must, or knows that it does not know."""
        if not self.uris:
            return not known
        return known and contains(text, self.says)


def contains(text: str, says: str) -> bool:
    """Return whether a text says something, whatever its case, white space and marks of sources."""
    plain = " ".join(_MARK.sub("", text).split())
    return re.search(says, plain, re.IGNORECASE) is not None


def load(path: Path = QUESTIONS) -> tuple[Question, ...]:
    """Return the questions in the file's order.

    Raises:
        ValueError: an entry lacks what its class needs, or a question occurs twice.
    """
    questions: list[Question] = []
    for manner, entries in yaml.safe_load(path.read_text()).items():
        questions += (_question(manner, entry) for entry in entries)
    asked = [(question.before, question.ask) for question in questions]
    twice = {pair for pair in asked if asked.count(pair) > 1}
    if twice:
        raise ValueError(f"asked twice: {sorted(twice)}")
    return tuple(questions)


def _question(manner: str, entry: Mapping[str, object]) -> Question:
    wanted = {"ask"} if manner == UNANSWERABLE else {"ask", "in", "says"}
    if set(entry) - {"before"} != wanted:
        raise ValueError(f"a question of {manner} has {sorted(wanted)}, this one: {dict(entry)}")
    names = entry.get("in", [])
    assert isinstance(names, list)
    return Question(
        manner=manner,
        ask=str(entry["ask"]),
        uris=tuple(f"doc://{name}" for name in names),
        says=str(entry.get("says", "")),
        before=str(entry.get("before", "")),
    )
