"""Makes answers of what was found.

`ExtractiveGenerator` answers in the memory's own sentences, each with its source, or says that it
does not know. `ChatGenerator` has a language model write the answer from the same passages.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from knowledge.chat import ChatClient
from knowledge.planner import identifiers
from knowledge.prompt import Prompt
from knowledge.retrieval import UNKNOWN, TextEmbedder
from knowledge.text import content_words, sentences, words
from knowledge.types import Citation, Hit, Kind

NOTHING_FOUND = f"{UNKNOWN}: nothing in memory answers this question."
DEFAULT_THRESHOLD = 0.37
"""The least cosine of question and sentence at which the sentence counts as an answer."""

_MARK = re.compile(r"\s*\[(\d+)\]")
# Code, its output, and the sections of documentation that list rather than say.
_NO_PROSE = re.compile(
    r"^(?:>>>|\.\.\. |array\(|Traceback\b"
    r"|(?:Attributes|Examples?|Methods|Notes|Parameters|References|See Also)\s+-{3,})"
)
_SHORTLIST = 12
_LEAST_WORDS = 3
_LONGEST_SENTENCE_WORDS = 90
_SENTENCES_OF_AN_ANSWER = 3
_SENTENCES_OF_AN_OVERVIEW = 6
# What a sentence's meaning, its words, its passage's rank, and standing first there count.
_BY_MEANING, _BY_WORDS, _BY_RANK, _BY_PLACE = 0.6, 0.25, 0.15, 0.05
_BEGINS_DOCUMENT = 2.0
# What a sentence loses that the answer before had, in a follow-up.
_SAID_BEFORE = 0.15
# A further sentence joins the best one if it scores at least this part of it.
_NEARLY_AS_GOOD = 0.75
# In an overview, where it stands beside others, at least this part.
_GOOD_ENOUGH = 0.5
_SAME_WORDS = 0.7


@dataclasses.dataclass(frozen=True)
class Generated:
    """A generator's work.

    Args:
        known: False when `text` only says that the passages do not answer the question.
    """

    text: str
    known: bool
    citations: tuple[Citation, ...] = ()


class Generator(Protocol):
    """Makes answers."""

    async def generate(self, prompt: Prompt) -> Generated:
        """Return the answer to a prompt."""
        ...


@dataclasses.dataclass(frozen=True)
class _Sentence:
    """A sentence that may answer.

    Args:
        hit: its passage's place among the prompt's hits.
        place: its place in the passage.
        words: stems of its words and of its source's title.
        said: whether the answer before had it.
        begins: whether its passage begins its document.
        score: how well it answers; 0 until known.
        similarity: its cosine with the question; 0 until known.
    """

    hit: int
    place: int
    text: str
    words: frozenset[str]
    said: bool = False
    begins: bool = False
    score: float = 0.0
    similarity: float = 0.0


class ExtractiveGenerator:
    """Answers with the passages' own sentences.

    A shortlist by shared words and rank is compared with the question by meaning, so that an answer
    costs one small batch of embeddings. A question that names something in code is only answered by
    passages that name it too: of two functions of one module, the documentation reads much alike.

    Args:
        embedder: compares sentences with the question.
        threshold: least cosine of the best sentence, from -1 to 1; below it, the answer is unknown.
    """

    def __init__(self, embedder: TextEmbedder, threshold: float = DEFAULT_THRESHOLD) -> None:
        self._embedder = embedder
        self._threshold = threshold

    async def generate(self, prompt: Prompt) -> Generated:
        """See `Generator`."""
        names = identifiers(prompt.query or prompt.question)
        found = [s for s in _sentences(prompt) if _names_one(prompt.hits[s.hit], names)]
        if not found:
            return Generated(NOTHING_FOUND, False)
        ranked = await self._rank(prompt, found)
        if max(sentence.similarity for sentence in ranked) < self._threshold:
            return Generated(NOTHING_FOUND, False)
        pick = _one_of_each if prompt.summarise else _best_and_alike
        return _compose(pick(ranked), prompt.hits)

    async def _rank(self, prompt: Prompt, found: Sequence[_Sentence]) -> list[_Sentence]:
        """Return the shortlist, best first."""
        query = prompt.query or prompt.question
        # Of a follow-up, its own words say what is new in it; its meaning needs both questions.
        weights = _weights(prompt.question, found)
        by_words = sorted(found, key=lambda s: (-_first_score(s, weights), s.hit, s.place))
        shortlist = by_words[:_SHORTLIST]
        titled = [f"{prompt.hits[s.hit].record.source.title}: {s.text}" for s in shortlist]
        vectors = await self._embedder.embed([query, *titled])
        similarities = vectors[1:] @ vectors[0]
        ranked = []
        for sentence, similarity in zip(shortlist, similarities.tolist(), strict=True):
            score = _BY_MEANING * similarity + _first_score(sentence, weights)
            ranked.append(dataclasses.replace(sentence, score=score, similarity=similarity))
        return sorted(ranked, key=lambda s: (-s.score, s.hit, s.place))


class ChatGenerator:
    """Has a language model answer; marks such as [2] in its reply become citations.

    Args:
        chat: the model.
    """

    def __init__(self, chat: ChatClient) -> None:
        self._chat = chat

    async def generate(self, prompt: Prompt) -> Generated:
        """See `Generator`.

        Raises:
            EndpointError: the model did not answer.
        """
        if not prompt.hits:
            return Generated(NOTHING_FOUND, False)
        reply = await self._chat.complete("", prompt.text)
        if reply.startswith(UNKNOWN):
            return Generated(reply, False)
        text, hits = _renumber(reply, prompt.hits)
        quotes = (Citation(h.record.id, h.record.source, _opening(h.record.text)) for h in hits)
        return Generated(text, True, tuple(quotes))


def _sentences(prompt: Prompt) -> list[_Sentence]:
    """Return the sentences of the prompt's passages that could stand in an answer."""
    follow_up = prompt.query not in ("", prompt.question)
    said = _said(prompt.hits) if follow_up else frozenset()
    found: list[_Sentence] = []
    for number, hit in enumerate(prompt.hits):
        if follow_up and hit.record.kind is Kind.EXCHANGE:
            # The answer before tells a model what is meant; it is no answer to what is asked now.
            continue
        title = words(hit.record.source.title)
        begins = hit.record.source.position == 0
        for place, text in enumerate(sentences(_MARK.sub("", hit.record.text))):
            length = len(text.split())
            usable = _LEAST_WORDS <= length <= _LONGEST_SENTENCE_WORDS and not _NO_PROSE.match(text)
            if usable:
                meant = frozenset(_stems([*words(text), *title]))
                found.append(_Sentence(number, place, text, meant, text in said, begins))
    return found


def _said(hits: Iterable[Hit]) -> frozenset[str]:
    exchanges = (hit.record.text for hit in hits if hit.record.kind is Kind.EXCHANGE)
    return frozenset(s for text in exchanges for s in sentences(_MARK.sub("", text)))


def _names_one(hit: Hit, names: Sequence[str]) -> bool:
    """Return whether a passage names one of these names, or there are none."""
    record = hit.record
    text = f"{record.source.title}\n{record.question}\n{record.text}".casefold()
    return not names or any(_mentions(text, name.casefold()) for name in names)


def _mentions(text: str, name: str) -> bool:
    # People write np.mean for numpy.mean: the last part of a dotted name is the name itself.
    last = name.rsplit(".", 1)[-1] if re.fullmatch(r"[\w.]+", name) else name
    return re.search(rf"(?<!\w){re.escape(last)}(?!\w)", text) is not None


def _weights(query: str, found: Sequence[_Sentence]) -> dict[str, float]:
    """Return how much each of the query's words counts: rare ones among the sentences, more."""
    counts = Counter(word for sentence in found for word in sentence.words)
    asked = frozenset(_stems(content_words(query)))
    weights = {word: math.log(1.0 + len(found) / (1.0 + counts[word])) for word in asked}
    total = sum(weights.values()) or 1.0
    return {word: weight / total for word, weight in weights.items()}


def _first_score(sentence: _Sentence, weights: dict[str, float]) -> float:
    shared = sum(weight for word, weight in weights.items() if word in sentence.words)
    first = 0.0 if sentence.place else _BEGINS_DOCUMENT if sentence.begins else 1.0
    new = _BY_WORDS * shared + _BY_RANK / (1 + sentence.hit) + _BY_PLACE * first
    return new - _SAID_BEFORE if sentence.said else new


def _stems(found: Iterable[str]) -> list[str]:
    """Return the words without the endings that make plurals and tenses."""
    return [_stem(word) for word in found]


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def _best_and_alike(ranked: Sequence[_Sentence]) -> list[_Sentence]:
    """Return the best sentence and those nearly as good, those of one passage as they stand in it."""
    best = ranked[0]
    chosen = [best]
    for sentence in ranked[1:]:
        alike = sentence.score >= _NEARLY_AS_GOOD * best.score
        if alike and len(chosen) < _SENTENCES_OF_AN_ANSWER and not _repeats(sentence, chosen):
            chosen.append(sentence)
    return sorted(chosen, key=lambda s: (s.hit != best.hit, s.hit, s.place))


def _one_of_each(ranked: Sequence[_Sentence]) -> list[_Sentence]:
    """Return the best sentence of each passage, best passage first."""
    chosen: list[_Sentence] = []
    for sentence in ranked:
        taken = any(sentence.hit == other.hit for other in chosen)
        good = sentence.score >= _GOOD_ENOUGH * ranked[0].score
        if good and not taken and not _repeats(sentence, chosen):
            chosen.append(sentence)
    return chosen[:_SENTENCES_OF_AN_OVERVIEW]


def _repeats(sentence: _Sentence, chosen: Sequence[_Sentence]) -> bool:
    for other in chosen:
        union = len(sentence.words | other.words)
        if union and len(sentence.words & other.words) / union > _SAME_WORDS:
            return True
    return False


def _compose(chosen: Sequence[_Sentence], hits: Sequence[Hit]) -> Generated:
    """Return the sentences as an answer; [n] marks the n-th citation."""
    parts: list[str] = []
    citations: list[Citation] = []
    for number, sentence in enumerate(chosen, 1):
        record = hits[sentence.hit].record
        parts.append(f"{sentence.text} [{number}]")
        citations.append(Citation(record.id, record.source, sentence.text))
    return Generated(" ".join(parts), True, tuple(citations))


def _renumber(reply: str, hits: Sequence[Hit]) -> tuple[str, list[Hit]]:
    """Return the reply with its marks counted from 1, and the hits they mean; wrong marks go."""
    cited: list[int] = []

    def mark(match: re.Match[str]) -> str:
        passage = int(match[1])
        if not 0 < passage <= len(hits):
            return ""
        if passage not in cited:
            cited.append(passage)
        return match[0].replace(match[1], str(cited.index(passage) + 1))

    text = _MARK.sub(mark, reply)
    return text, [hits[passage - 1] for passage in cited]


def _opening(text: str) -> str:
    found = sentences(text)
    return found[0] if found else text
