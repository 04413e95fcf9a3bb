"""What every part agrees on about text: sentences, words, and how long it is in tokens."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+", re.UNICODE)
_PIECE = re.compile(r"\w+|[^\w\s]", re.UNICODE)
# Longer words are several pieces to a language model; this many letters make about one.
_LETTERS_OF_A_TOKEN = 6
_NAME = re.compile(r"\w+(?:\.\w+)*", re.UNICODE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n+")
_END = re.compile(r"""[.!?]["')\]]*(?=\s+["'(\[]*[A-Z0-9`*:])""")
# A full stop after these ends no sentence.
_ABBREVIATIONS = frozenset((
    "e.g.", "i.e.", "cf.", "etc.", "vs.", "resp.", "approx.", "no.", "fig.", "eq.", "sec.",
    "dr.", "mr.", "mrs.", "st.", "al.", "ref.", "refs.", "vol.", "pp.", "p.", "ed.",
))  # fmt: skip
_STOP = (
    "a about an and are as at be been but by can could did do does for from had has have how"
    " i if in into is it its may me my no not of on or our shall should so than that the their"
    " them then there these they this those to was we were what when where which who whom"
    " whose why will with would you your"
)
STOP_WORDS = frozenset(_STOP.split())


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, in order; punctuation separates them."""
    return _WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """Return the words that carry meaning, or all of them where none does."""
    found = words(text)
    return [word for word in found if word not in STOP_WORDS] or found


def identifiers(text: str) -> list[str]:
    """Return the names in a text that are several words to a search: `a.b`, `read_csv`; as one each."""
    found = [
        match for match in _NAME.findall(text.lower()) if not _WORD.fullmatch(match) or "_" in match
    ]
    return [" ".join(words(match.replace("_", " "))) for match in found]


def clean(text: str) -> str:
    """Return a text that any file can hold: what is no character becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def count_tokens(text: str) -> int:
    """Return about how many tokens a language model makes of a text; the same text, the same count."""
    return sum(-(-len(piece) // _LETTERS_OF_A_TOKEN) for piece in _PIECE.findall(text))


def paragraphs(text: str) -> list[str]:
    """Return what blank lines separate, without outer blank lines, in order."""
    return [part.strip("\n") for part in _PARAGRAPH.split(text) if part.strip()]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text in order, each on one line.

    A blank line ends a sentence as a full stop does, so headings and examples stay apart. No word is
    lost: joined together, the sentences hold every word of the text.
    """
    found: list[str] = []
    for paragraph in paragraphs(text):
        found += _sentences_of(" ".join(paragraph.split()))
    return found


def _sentences_of(line: str) -> list[str]:
    found: list[str] = []
    start = 0
    for end in [match.end() for match in _END.finditer(line)] + [len(line)]:
        sentence = line[start:end].strip()
        if not sentence or _ends_in_abbreviation(sentence, end < len(line)):
            continue
        found.append(sentence)
        start = end
    return found


def _ends_in_abbreviation(sentence: str, goes_on: bool) -> bool:
    return goes_on and sentence.rsplit(None, 1)[-1].lower().lstrip("(['\"") in _ABBREVIATIONS
