"""Prompts: what goes in arrives as it is, and what does not fit is refused before a model sees it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge.prompt import ANSWER_TEXT, AnswerFields, PromptError, Template, passage
from knowledge.types import Hit, Kind, Layer, Record, Source

PLAIN = Template(AnswerFields, "C={context} Q={question}")
NASTY = ["{question}", "{0}", "{{}}", "%s %(question)s %%", "$question", "\\1\\n", "a\nb", "{", "}"]


@pytest.mark.parametrize("text", NASTY)
def test_question_and_passage_with_signs_of_templates_arrive_as_themselves(text: str) -> None:
    assert PLAIN.render(AnswerFields(text, (text,))) == f"C=[1] {text} Q={text}"


@given(question=st.text(), context=st.lists(st.text(), max_size=4).map(tuple))
def test_any_text_arrives_unchanged(question: str, context: tuple[str, ...]) -> None:
    shown = PLAIN.render(AnswerFields(question, context))
    passages = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(context, 1))
    assert shown == f"C={passages} Q={question}"


def test_passages_stay_apart_and_in_order() -> None:
    assert PLAIN.render(AnswerFields("q", ("x", "y"))) == "C=[1] x\n\n[2] y Q=q"


@pytest.mark.parametrize("question", [("What?",), ["What?"], None, 3, b"What?"])
def test_question_that_is_a_tuple_is_refused_not_printed(question: object) -> None:
    with pytest.raises(PromptError, match=r"'question' takes one text, not"):
        PLAIN.render(AnswerFields(question, ()))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"'question' takes one text, not"):
        PLAIN.fill({"question": question, "context": ()})


@pytest.mark.parametrize("context", ["one text", ["a list"], (1, 2), (("nested",),), None])
def test_context_that_is_no_tuple_of_texts_is_refused_not_taken_apart(context: object) -> None:
    with pytest.raises(PromptError, match=r"'context' takes a tuple of texts, not"):
        PLAIN.render(AnswerFields("q", context))  # type: ignore[arg-type]


def test_batch_gives_one_prompt_each_and_no_prompt_of_the_batch() -> None:
    batch = [AnswerFields(f"q{n}", (f"c{n}",)) for n in range(3)]
    assert PLAIN.render_batch(batch) == [f"C=[1] c{n} Q=q{n}" for n in range(3)]
    assert PLAIN.render_batch([]) == []
    with pytest.raises(PromptError, match="filled with AnswerFields, not list"):
        PLAIN.render(batch)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="a batch is a sequence"):
        PLAIN.render_batch("text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"question": "q"}, "the values: no context"),
        ({}, "the values: no context, question"),
        ({"question": "q", "context": (), "tone": "dry"}, "the values: unknown tone"),
        ({"question": "q", "contxt": ()}, "the values: no context; unknown contxt"),
    ],
)
def test_missing_and_surplus_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        PLAIN.fill(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{question}", "no context"),
        ("{question} {context} {mood}", "unknown mood"),
        ("{question!r} {context}", "places are plain names"),
        ("{question:>9} {context}", "places are plain names"),
        ("{question.text} {context}", "places are plain names"),
        ("{question[0]} {context}", "places are plain names"),
        ("{} {question} {context}", "places are plain names"),
        ("{question", "cannot be read"),
    ],
)
def test_template_that_does_not_fit_its_fields_is_refused_when_it_is_made(
    text: str, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        Template(AnswerFields, text)


def test_template_of_fields_that_no_prompt_can_show_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Numbers:
        count: int

    with pytest.raises(PromptError, match="'count'"):
        Template(Numbers, "{count}")
    with pytest.raises(PromptError, match="are a dataclass"):
        Template(dict, "{count}")


def test_literal_braces_of_a_template_are_doubled() -> None:
    template = Template(AnswerFields, '{{"q": "{question}"}} {context}')
    assert template.render(AnswerFields("x", ())) == '{"q": "x"} '


def test_answer_prompt_holds_question_and_passages() -> None:
    text = Template(AnswerFields, ANSWER_TEXT).render(AnswerFields("Why {x}?", ("first", "second")))
    assert "[1] first\n\n[2] second" in text
    assert text.rstrip().endswith("Question: Why {x}?")
    assert "{" in ANSWER_TEXT


def test_passage_of_an_exchange_shows_its_question() -> None:
    source = Source("session://s/1", "earlier")
    record = Record("r", Layer.SHORT_TERM, Kind.EXCHANGE, "An answer.", source, question="Why?")
    assert passage(Hit(record, 1.0, {})) == "earlier\nQ: Why?\nA: An answer."
