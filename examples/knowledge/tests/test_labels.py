"""The labelled questions of the quality benchmark hold on this Python and its NumPy."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from knowledge import corpus
from knowledge.types import Document

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import labels  # noqa: E402


@pytest.fixture(scope="module")
def questions() -> tuple[labels.Question, ...]:
    """All labelled questions."""
    return labels.load()


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    """The corpus by URI."""
    return {document.uri: document for document in corpus.docstrings()}


def test_there_are_enough_questions_of_every_class(
    questions: tuple[labels.Question, ...],
) -> None:
    counts = Counter(question.manner for question in questions)
    wanted = {"identifier", "paraphrase", "mixed", "multi-sentence", labels.UNANSWERABLE}
    assert set(counts) == wanted
    assert min(counts.values()) >= 20
    assert len(questions) >= 120
    assert sum(bool(question.before) for question in questions) >= 5


@pytest.mark.parametrize("path", [labels.QUESTIONS, labels.UNSEEN], ids=lambda path: path.stem)
def test_a_document_that_answers_is_in_the_corpus_and_says_it(
    path: Path, documents: dict[str, Document]
) -> None:
    wrong = []
    for question in labels.load(path):
        texts = [documents[uri].text for uri in question.uris if uri in documents]
        if question.uris and not any(labels.contains(text, question.says) for text in texts):
            wrong.append((question.ask, question.uris, len(texts)))
    assert not wrong


def test_the_unseen_questions_are_about_other_documents(
    questions: tuple[labels.Question, ...],
) -> None:
    unseen = labels.load(labels.UNSEEN)
    assert len(unseen) == 60
    seen = {uri for question in questions for uri in question.uris}
    assert [q.ask for q in unseen if seen & set(q.uris)] == []
    assert {q.manner for q in unseen} == {q.manner for q in questions}


def test_what_is_called_unanswerable_is_named_nowhere(
    questions: tuple[labels.Question, ...], documents: dict[str, Document]
) -> None:
    everything = " ".join(document.text for document in documents.values()).lower()
    invented = ("teleport", "magneticdeque", "brew_coffee", "ingrid")
    assert not [name for name in invented if name in everything]
    asked = " ".join(q.ask for q in questions if q.manner == labels.UNANSWERABLE).lower()
    assert all(name in asked for name in invented)


@pytest.mark.parametrize(
    ("text", "right"),
    [("Return the\n middle [1]\nvalue.", True), ("Return the mode.", False), ("", False)],
)
def test_an_answer_is_right_when_it_says_what_it_must(text: str, right: bool) -> None:
    question = labels.Question("paraphrase", "?", ("doc://a",), says="the middle value")
    assert question.is_answered_by(text, known=True) is right
    assert not question.is_answered_by(text, known=False)


def test_not_knowing_is_the_right_answer_where_there_is_none() -> None:
    question = labels.Question(labels.UNANSWERABLE, "?")
    assert question.is_answered_by("I do not know.", known=False)
    assert not question.is_answered_by("Canberra.", known=True)
