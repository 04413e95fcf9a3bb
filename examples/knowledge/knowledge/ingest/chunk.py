"""Cuts documents into pieces that are found and cited, and says each in a sentence or two."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator

from knowledge.text import content_words, count_tokens, paragraphs, sentences
from knowledge.types import KnowledgeError

# Part of every digest: documents cut by other rules are cut again.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Cut:
    """How documents are cut.

    Args:
        tokens: of a piece, at most; what the embedding model sees of a text ends soon after 200.
        least_tokens: a shorter rest joins the piece before it, if it fits in half as much again.
        summary_sentences: of a piece's summary.
    """

    tokens: int = 160
    least_tokens: int = 24
    summary_sentences: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.least_tokens < self.tokens or self.summary_sentences < 1:
            raise KnowledgeError(f"documents cannot be cut by {self}")


DEFAULT_CUT = Cut()


def split(text: str, cut: Cut = DEFAULT_CUT) -> list[str]:
    """Return a text's pieces in order; together they hold every word of it, once.

    Paragraphs stay whole where they fit, else sentences, else as many words as fit.
    """
    pieces: list[str] = []
    size = 0
    for gap, part in _parts(text, cut.tokens):
        tokens = count_tokens(part)
        if pieces and size + tokens <= cut.tokens:
            pieces[-1] = f"{pieces[-1]}{gap}{part}"
            size += tokens
        else:
            pieces.append(part)
            size = tokens
    if len(pieces) > 1 and size < cut.least_tokens:
        last = pieces.pop()
        if count_tokens(pieces[-1]) + size <= cut.tokens * 3 // 2:
            pieces[-1] = f"{pieces[-1]}\n\n{last}"
        else:
            pieces.append(last)
    return pieces


def summarise(text: str, most: int = 2) -> str:
    """Return the sentences that say most of what a text is about, in their order.

    A sentence weighs by its words that the text uses often; the first weighs more, because texts
    begin with what they are about. A text of few sentences is its own summary.
    """
    found = sentences(text)
    if len(found) <= most:
        return " ".join(found)
    meanings = [content_words(sentence) for sentence in found]
    often = collections.Counter(word for words in meanings for word in set(words))
    weights = [
        sum(math.log1p(often[word]) for word in set(words)) / math.sqrt(len(words) + 4)
        for words in meanings
    ]
    weights[0] *= 1.5
    best = sorted(range(len(found)), key=lambda place: (-weights[place], place))[:most]
    return " ".join(found[place] for place in sorted(best))


def _parts(text: str, tokens: int) -> Iterator[tuple[str, str]]:
    """Yield what is not divided further, each with what joins it to the part before."""
    for paragraph in paragraphs(text):
        gap = "\n\n"
        if count_tokens(paragraph) <= tokens:
            yield gap, paragraph
            continue
        for sentence in sentences(paragraph):
            for run in (
                [sentence] if count_tokens(sentence) <= tokens else _pressed(sentence, tokens)
            ):
                yield gap, run
                gap = " "


def _pressed(sentence: str, tokens: int) -> list[str]:
    """Return a sentence that is too long in runs of words that fit; a word alone may not fit."""
    runs: list[list[str]] = [[]]
    size = 0
    for word in sentence.split():
        length = count_tokens(word)
        if runs[-1] and size + length > tokens:
            runs.append([])
            size = 0
        runs[-1].append(word)
        size += length
    return [" ".join(run) for run in runs]
