"""The extractive generator: the sources' own sentences, or the admission that it does not know."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from knowledge.embedding import Embedder, Vectors
from knowledge.generator import NOTHING_FOUND, ExtractiveGenerator, Generated
from knowledge.prompt import Prompt
from knowledge.text import sentences
from knowledge.types import Hit, Kind, Layer, Record, Source

MEDIAN = "Compute the median along the specified axis. Returns the median of the array elements."
DISK = "Return disk usage statistics about the given path. Returned value is a named tuple."
QUOTE = "Return a shell-escaped version of the string s. It is safe to use as one token."


class Waiting:
    """The session's embedder, to wait for."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.texts = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed at once."""
        self.texts += len(texts)
        return self.embedder.embed(texts)


def hit(title: str, text: str, kind: Kind = Kind.CHUNK, question: str = "") -> Hit:
    """Return a hit of a document called `title`."""
    source = Source(f"doc://{title}", title)
    return Hit(Record(title, Layer.CONTEXTUAL, kind, text, source, question=question), 1.0, {})


HITS = (hit("numpy.median", MEDIAN), hit("shutil.disk_usage", DISK), hit("shlex.quote", QUOTE))


@pytest.fixture(scope="module")
def waiting(embedder: Embedder) -> Waiting:
    """The real embedder."""
    return Waiting(embedder)


def answer(waiting: Waiting, question: str, *hits: Hit, **more: object) -> Generated:
    """Answer from these hits, or from HITS."""
    prompt = Prompt(question, hits or HITS, "", **more)  # type: ignore[arg-type]
    return asyncio.run(ExtractiveGenerator(waiting).generate(prompt))


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("How much room is left on my disk?", "shutil.disk_usage"),
        ("How do I escape a text for the shell?", "shlex.quote"),
        ("What does numpy.median compute?", "numpy.median"),
        ("the middle value of an array", "numpy.median"),
    ],
)
def test_answer_is_the_source_s_own_sentence_with_its_citation(
    waiting: Waiting, question: str, title: str
) -> None:
    made = answer(waiting, question)
    assert made.known
    assert made.citations[0].source.title == title
    texts = {hit.record.id: sentences(hit.record.text) for hit in HITS}
    for number, citation in enumerate(made.citations, 1):
        assert citation.quote in texts[citation.record_id]
        assert f"{citation.quote} [{number}]" in made.text


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of Mongolia?",
        "Who won the world cup in 1998?",
        "How long should I boil an egg?",
        "What is the best medicine for a headache?",
    ],
)
def test_what_no_source_says_is_not_answered(waiting: Waiting, question: str) -> None:
    assert answer(waiting, question) == Generated(NOTHING_FOUND, False)


def test_name_that_no_source_has_is_not_answered_by_its_neighbours(waiting: Waiting) -> None:
    assert answer(waiting, "What does numpy.median return?").known
    assert not answer(waiting, "What does numpy.mediant return?").known
    assert not answer(waiting, "What does shutil.disk_usage_by_user return?").known


def test_no_passages_no_answer_and_no_work(waiting: Waiting) -> None:
    before = waiting.texts
    prompt = Prompt("Anything?", (), "")
    assert not asyncio.run(ExtractiveGenerator(waiting).generate(prompt)).known
    assert waiting.texts == before


def test_long_passages_cost_one_small_batch(waiting: Waiting) -> None:
    before = waiting.texts
    long = " ".join(f"Sentence number {n} tells about medians and arrays." for n in range(200))
    answer(waiting, "What is a median?", hit("long", long))
    assert waiting.texts - before <= 13


def test_overview_takes_one_sentence_of_each_source(waiting: Waiting) -> None:
    sorting = (
        hit("sorted", "Return a new sorted list from the items. The sort is stable."),
        hit("list.sort", "Sort the list in ascending order and return None."),
        hit("heapq.merge", "Merge multiple sorted inputs into a single sorted output."),
    )
    made = answer(waiting, "Give me an overview of sorting lists", *sorting, summarise=True)
    cited = [citation.source.title for citation in made.citations]
    assert sorted(cited) == ["heapq.merge", "list.sort", "sorted"]


def test_follow_up_does_not_repeat_the_answer_before(waiting: Waiting) -> None:
    first = answer(waiting, "What does numpy.median do?", HITS[0])
    said = hit("session", first.text, Kind.EXCHANGE, "What does numpy.median do?")
    query = "What does numpy.median do? And what does it return?"
    made = answer(waiting, "And what does it return?", said, HITS[0], query=query)
    assert made.known
    assert made.text.startswith("Returns the median of the array elements.")
    assert made.citations[0].record_id == "numpy.median"


def test_examples_and_fragments_are_no_sentences_of_an_answer(waiting: Waiting) -> None:
    text = ">>> median of the numbers [1, 2, 3]\n\nMedian.\n\nThe median is the middle number."
    made = answer(waiting, "What is the median?", hit("m", text))
    assert made.text == "The median is the middle number. [1]"


def test_marks_of_an_earlier_answer_do_not_pass_as_citations(waiting: Waiting) -> None:
    earlier = hit("e", "The median is the middle number. [3]", Kind.EXCHANGE, "What is a median?")
    made = answer(waiting, "What is the median?", earlier)
    assert made.text == "The median is the middle number. [1]"
