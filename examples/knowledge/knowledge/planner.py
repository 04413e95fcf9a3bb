"""From a question to a plan: which memories are searched, how, and for how much.

`RulePlanner` decides by what the question looks like and always decides alike. `ModelPlanner` asks
a language model, holds its reply to the same limits, and falls back to the rules with the reason in
the plan.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast, get_args

from knowledge.chat import ChatClient, EndpointError
from knowledge.prompt import Template
from knowledge.text import STOP_WORDS, sentences, words
from knowledge.types import KnowledgeError, Layer, Plan, Record, Strategy

Choice = Literal["adaptive", "lexical", "vector", "hybrid"]
"""A fixed strategy for every question, or the planner's choice for each."""

DEFAULT_K = 5
DEFAULT_TOKEN_BUDGET = 1200
MOST_K = 50
_TOKEN_BUDGETS = (64, 16_384)

_NAME = r"[A-Za-z_]\w*"
# A quoted name or phrase; an apostrophe inside a word opens nothing.
_QUOTED = re.compile(r"`([^`]+)`|\"([^\"]+)\"|(?<!\w)'([^']+)'(?!\w)")
_DOTTED = re.compile(rf"(?<![\w.]){_NAME}(?:\.{_NAME})+")
_CALLED = re.compile(rf"(?<![\w.])({_NAME}(?:\.{_NAME})*)\(")
_UNDERSCORED = re.compile(r"(?<![\w.])(?:_+[A-Za-z]\w*|[A-Za-z]\w*_\w+)(?![\w(.]*\.\w)")
_MIXED_CASE = re.compile(r"(?<![\w.])(?:[A-Z][a-z0-9]+){2,}(?!\w)|(?<![\w.])[a-z]+[A-Z]\w*")
_ABBREVIATIONS = frozenset({"e.g", "i.e", "a.k.a", "p.s"})

_REFERS_BACK = re.compile(
    r"\b(?:it|its|itself|they|them|their|theirs)\b"
    r"|\b(?:this|that|these|those)(?=\s*(?:[?.!,]|$|\b(?:is|are|does|do|did|was|were|work|works|mean"
    r"|means|return|returns|one|ones|function|class|method|module)\b))"
    r"|\b(?:is|are|was|were|does|do|did)\s+(?:this|that|these|those)\b"
    r"|^(?:and|but|so|or|then|also)\b|^(?:what|how) about\b|\b(?:the same|the other|else|instead)\b",
    re.IGNORECASE,
)
# "it" that stands for nothing said before.
_IMPERSONAL = re.compile(
    r"\b(?:is|was) it (?:possible|safe|true|ok|okay|necessary|better)\b"
    r"|\bdoes it (?:take|matter|make sense)\b|\bwhat (?:time|day) is it\b",
    re.IGNORECASE,
)
_ABOUT_US = re.compile(
    r"\b(?:i|we) (?:ask(?:ed)?|said|say|told|tell|talk(?:ed)?|discuss(?:ed)?)\b"
    r"|\byou (?:say|said|tell|told|answer(?:ed)?|mention(?:ed)?)\b"
    r"|\b(?:earlier|previous(?:ly)?|last) (?:question|answer)s?\b",
    re.IGNORECASE,
)
_OVERVIEW = re.compile(
    r"\bsummar(?:y|ies|i[sz]e)\b|\boverview\b|\boutline\b|\bbroadly\b|\bin general\b"
    r"|\bwhat (?:is|are) (?:all|the (?:main|different|various)|there)\b|\blist (?:all|the)\b"
    r"|\btell me (?:all|everything)\b|\bwhat (?:kinds?|types?|sorts?) of\b",
    re.IGNORECASE,
)
# What searches by words count in a question of several sentences: most of their words are beside
# the point.
_A_LITTLE = 0.15
_KEYWORDS = 3
DEFAULT_VOCABULARY = (
    "argparse", "asyncio", "base64", "bisect", "bz2", "contextlib", "csv", "ctypes", "dataclass",
    "dataclasses", "datetime", "difflib", "einsum", "functools", "glob", "gzip", "hashlib", "heapq",
    "hmac", "importlib", "inspect", "ipaddress", "itertools", "logging", "lzma", "mmap", "numpy",
    "np", "os", "pathlib", "pickle", "re", "regex", "shlex", "shutil", "smtplib", "sqlite",
    "sqlite3", "ssl", "subprocess", "sys", "tarfile", "tempfile", "textwrap", "tkinter",
    "traceback", "tracemalloc", "unittest", "urllib", "uuid", "venv", "weakref", "zipfile", "zlib",
    "zoneinfo",
)  # fmt: skip
"""Names of the default corpus that are no English words, or hardly."""

# Of a question's words, these say what is asked of a name, not which.
_ASKING = frozenset((
    "argument", "arguments", "call", "called", "class", "default", "describe", "do", "doing",
    "explain", "function", "give", "gives", "happen", "happens", "help", "mean", "means", "method",
    "module", "need", "needed", "parameter", "parameters", "purpose", "python", "return",
    "returns", "say", "says", "show", "take", "takes", "tell", "use", "used", "using", "work",
    "works",
))  # fmt: skip


class Planner(Protocol):
    """Makes plans."""

    async def plan(self, question: str, history: Sequence[Record]) -> Plan:
        """Return how to answer a question.

        Args:
            history: the session's latest exchanges, newest first.
        """
        ...


def identifiers(question: str) -> tuple[str, ...]:
    """Return the names of code in a question, and what it quotes, in the order they appear."""
    found: dict[str, int] = {}
    for match in _QUOTED.finditer(question):
        quoted = next(filter(None, match.groups())).strip()
        if quoted:
            found.setdefault(quoted.removesuffix("()"), match.start())
    bare = _QUOTED.sub(lambda match: " " * len(match[0]), question)
    for pattern in (_DOTTED, _CALLED, _UNDERSCORED, _MIXED_CASE):
        for match in pattern.finditer(bare):
            name = match[match.lastindex or 0]
            if name.lower() not in _ABBREVIATIONS:
                found.setdefault(name, match.start())
    return tuple(sorted(found, key=lambda name: found[name]))


class RulePlanner:
    """Plans by rules, the same plan for the same question and history.

    Args:
        strategy: of every plan, unless "adaptive".
        k: pieces for a plain question; an overview takes twice as many.
        token_budget: for a plain question; an overview takes twice as much.
        vocabulary: words in lower case that are names in what is ingested, though nothing in how
            they are written says so.
    """

    def __init__(
        self,
        strategy: Choice = "adaptive",
        k: int = DEFAULT_K,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        vocabulary: Sequence[str] = DEFAULT_VOCABULARY,
    ) -> None:
        self._vocabulary = frozenset(vocabulary)
        self._strategy = strategy
        self._k = k
        self._token_budget = token_budget

    async def plan(self, question: str, history: Sequence[Record]) -> Plan:
        """See `Planner`."""
        return self.plan_now(question, history)

    def plan_now(self, question: str, history: Sequence[Record] = ()) -> Plan:
        """Return the plan; there is nothing to wait for."""
        names = identifiers(question)
        topic = _topic(question, names)
        layers, query, why_layers = _layers(question, names, topic, history)
        choice = self._choose(query)
        summarise = bool(_OVERVIEW.search(question))
        reasons = [choice.why, why_layers]
        factor = 1
        if summarise:
            factor = 2
            reasons.append("It asks for an overview: more pieces, one sentence of each.")
        return Plan(
            strategy=choice.strategy,
            layers=layers,
            k=min(MOST_K, self._k * factor),
            summarise=summarise,
            token_budget=self._token_budget * factor,
            reasons=tuple(reasons),
            query=query,
            lexical_weight=choice.lexical_weight,
            follow_up=question if query != question else "",
        )

    def _choose(self, query: str) -> _Choice:
        if self._strategy != "adaptive":
            why = f"The settings say {self._strategy} for every question."
            return _Choice(self._strategy, why)
        names = identifiers(query)
        topic = _topic(query, names)
        shown = ", ".join(names)
        if names and not topic:
            return _Choice("lexical", f"It only names {shown}: the words themselves are looked up.")
        if names:
            why = (
                f"It names {shown} and asks about {' '.join(topic)}: words and meaning both count."
            )
            return _Choice("hybrid", why)
        known = [word for word in words(query) if word in self._vocabulary]
        if known:
            why = f"It has {known[0]!r}, which is a name here: words and meaning both count."
            return _Choice("hybrid", why)
        if len(words(query)) <= _KEYWORDS:
            return _Choice("hybrid", "A few words, no sentence: words and meaning both count.")
        if len(sentences(query)) > 1:
            why = "It is several sentences: the meaning is looked up, and words count a little."
            return _Choice("hybrid", why, _A_LITTLE)
        return _Choice("vector", "It is plain language without names: the meaning is looked up.")


@dataclasses.dataclass(frozen=True)
class _Choice:
    strategy: Strategy
    why: str
    lexical_weight: float = 1.0


def _topic(question: str, names: Sequence[str]) -> list[str]:
    """Return the words that say what the question is about, besides the names in it."""
    in_names = {word for name in names for word in words(name)}
    ignored = STOP_WORDS | _ASKING | in_names
    return [word for word in words(question) if word not in ignored and len(word) > 1]


def _layers(
    question: str, names: Sequence[str], topic: Sequence[str], history: Sequence[Record]
) -> tuple[tuple[Layer, ...], str, str]:
    """Return the layers in order of trust, what to search for, and why."""
    outside = (Layer.CONTEXTUAL, Layer.LONG_TERM)
    if not history:
        return outside, question, "Nothing was said before in this session."
    inside = (Layer.SHORT_TERM, *outside)
    if _ABOUT_US.search(question):
        return inside, question, "It asks about this conversation: the session comes first."
    if names or _IMPERSONAL.search(question) or not _REFERS_BACK.search(question):
        return outside, question, "It stands for itself, without what was said before."
    if len(topic) > 6:
        return inside, question, "It refers back, but says enough: the session comes first."
    before = history[0].question
    return inside, f"{before} {question}", f"It refers back to {before!r}: both are searched for."


@dataclasses.dataclass(frozen=True)
class PlanFields:
    """What the prompt for a plan is made of."""

    question: str
    history: tuple[str, ...]


PLAN = Template(
    PlanFields,
    """\
Plan how to search a knowledge base for the question below. Reply with one JSON object and nothing
else. Its keys, all required:
"strategy": "lexical" (exact names), "vector" (meaning) or "hybrid";
"layers": a list of "short-term" (this conversation), "long-term", "contextual" (documents), most
  trusted first; "k": pieces to find, 1 to 50; "summarise": true for an overview;
"token_budget": 64 to 16384; "query": what to search for, complete without the conversation;
"reason": one sentence.

Earlier questions, newest first:

{history}

Question: {question}
""",
)


class ModelPlanner:
    """Plans by a language model's reply, or by `fallback` and says why.

    Args:
        chat: the model.
        fallback: used when there is no reply or it is no plan.
    """

    def __init__(self, chat: ChatClient, fallback: RulePlanner) -> None:
        self._chat = chat
        self._fallback = fallback

    async def plan(self, question: str, history: Sequence[Record]) -> Plan:
        """See `Planner`."""
        asked = PlanFields(question, tuple(record.question for record in history))
        try:
            return plan_from_json(await self._chat.complete("", PLAN.render(asked)))
        except (EndpointError, PlanError) as error:
            plan = self._fallback.plan_now(question, history)
            why = f"The rules decided, because the model's plan could not be used: {error}"
            return dataclasses.replace(plan, reasons=(why, *plan.reasons))


class PlanError(KnowledgeError):
    """What should be a plan is none."""


def plan_from_json(text: str) -> Plan:
    """Return the plan in a model's reply.

    Raises:
        PlanError: it is not JSON, or a key is missing, surplus, of another type or out of range.
    """
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        told = json.loads(fenced[1] if fenced else text)
    except ValueError:
        raise PlanError(f"no JSON: {text[:80]!r}") from None
    if not isinstance(told, dict):
        raise PlanError(f"no JSON object: {text[:80]!r}")
    wanted = {"strategy", "layers", "k", "summarise", "token_budget", "query", "reason"}
    if set(told) != wanted:
        raise PlanError(f"its keys are {sorted(told)}, not {sorted(wanted)}")
    if told["strategy"] not in get_args(Strategy):
        raise PlanError(f"there is no strategy {told['strategy']!r}")
    if not isinstance(told["summarise"], bool):
        raise PlanError(f"summarise is true or false, not {told['summarise']!r}")
    return Plan(
        strategy=cast(Strategy, told["strategy"]),
        layers=_layers_from(told["layers"]),
        k=_number(told, "k", 1, MOST_K),
        summarise=told["summarise"],
        token_budget=_number(told, "token_budget", *_TOKEN_BUDGETS),
        reasons=(f"The model: {_text(told, 'reason')}",),
        query=_text(told, "query"),
    )


def _layers_from(told: object) -> tuple[Layer, ...]:
    known = {layer.value: layer for layer in Layer}
    if not isinstance(told, list) or not told or not all(name in known for name in map(str, told)):
        raise PlanError(f"layers are a list of {', '.join(known)}, not {told!r}")
    return tuple(dict.fromkeys(known[name] for name in told))


def _number(told: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = told[key]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise PlanError(f"{key} is a whole number from {least} to {most}, not {value!r}")
    return value


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told[key]
    if not isinstance(value, str) or not value.strip():
        raise PlanError(f"{key} is a text, not {value!r}")
    return value.strip()
