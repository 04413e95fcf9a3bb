"""The planner: how a question is asked decides how it is searched for, and the plan says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge.planner import MOST_K, RulePlanner, identifiers
from knowledge.types import Kind, Layer, Plan, Record, Source

OUTSIDE = (Layer.CONTEXTUAL, Layer.LONG_TERM)
SESSION_FIRST = (Layer.SHORT_TERM, *OUTSIDE)


def exchange(question: str) -> Record:
    """Return an exchange of the session."""
    source = Source("session://s", "s")
    return Record("e", Layer.SHORT_TERM, Kind.EXCHANGE, "Yes.", source, question=question)


def plan(question: str, *before: str) -> Plan:
    """Plan a question after others, newest first."""
    return RulePlanner().plan_now(question, [exchange(one) for one in before])


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("What does json.dumps do?", ("json.dumps",)),
        ("What does `bisect_left` return?", ("bisect_left",)),
        ('Where is "broken pipe" explained?', ("broken pipe",)),
        ("Explain sorted().", ("sorted",)),
        ("How is os.path.join() called?", ("os.path.join",)),
        ("What is __init_subclass__?", ("__init_subclass__",)),
        ("What is a ChainMap or an OrderedDict?", ("ChainMap", "OrderedDict")),
        ("What does maxBytes mean?", ("maxBytes",)),
        ("np.linalg.norm and numpy.mean", ("np.linalg.norm", "numpy.mean")),
        ("How do I sort, e.g. by length?", ()),
        ("It ends here.Then it goes on", ("here.Then",)),
        ("Is Python 3.11 faster? I don't know what's best.", ()),
        ("What is a list?", ()),
        ("NumPy", ("NumPy",)),
        ("", ()),
    ],
)
def test_names_in_a_question_are_found(question: str, names: tuple[str, ...]) -> None:
    assert identifiers(question) == names


@pytest.mark.parametrize(
    ("question", "strategy"),
    [
        ("json.dumps", "lexical"),
        ("What does json.dumps do?", "lexical"),
        ("What does `shlex.quote` return?", "lexical"),
        ("How do I keep json.dumps from escaping accented letters?", "hybrid"),
        ("broadcasting", "hybrid"),
        ("context managers", "hybrid"),
        ("In the bisect module, how do I keep a list sorted?", "hybrid"),
        ("I have two lists. How do I find what they have in common?", "hybrid"),
        ("How can I find out how much room is left on a disk?", "vector"),
        ("Which way of sampling gives every item the same chance?", "vector"),
    ],
)
def test_way_of_asking_decides_the_search(question: str, strategy: str) -> None:
    assert plan(question).strategy == strategy


@pytest.mark.parametrize(
    "question",
    [
        "What does it return?",
        "And with an axis?",
        "What about empty lists?",
        "Does that work for tuples?",
        "Why is this so?",
        "Are they sorted?",
    ],
)
def test_follow_up_trusts_the_session_first_and_searches_for_what_was_meant(question: str) -> None:
    made = plan(question, "What does numpy.median compute?", "older")
    assert made.layers == SESSION_FIRST
    assert made.query == f"What does numpy.median compute? {question}"
    assert "refers back to 'What does numpy.median compute?'" in " ".join(made.reasons)
    # With nothing to refer to, it is a question like any other.
    alone = plan(question)
    assert (alone.layers, alone.query) == (OUTSIDE, question)
    assert (made.follow_up, alone.follow_up) == (question, "")


@pytest.mark.parametrize(
    "question",
    [
        "What does json.loads return when it fails?",
        "Is it possible to sort a list in place?",
        "Which function counts words?",
        "A function that splits text",
    ],
)
def test_question_that_stands_for_itself_is_not_mixed_with_what_was_said(question: str) -> None:
    made = plan(question, "What does numpy.median compute?")
    assert (made.layers, made.query) == (OUTSIDE, question)


def test_question_about_the_conversation_looks_there_first() -> None:
    made = plan("What did I ask about dates?", "What is a date?")
    assert made.layers == SESSION_FIRST
    assert made.query == "What did I ask about dates?"


@pytest.mark.parametrize(
    "question",
    ["Summarise the csv module.", "Give me an overview of threading", "What kinds of locks exist?"],
)
def test_overview_takes_more_pieces_and_more_room(question: str) -> None:
    made, usual = plan(question), plan("What is a lock?")
    assert made.summarise
    assert (made.k, made.token_budget) == (2 * usual.k, 2 * usual.token_budget)


@pytest.mark.parametrize("strategy", ["lexical", "vector", "hybrid"])
def test_fixed_strategy_holds_for_every_question(strategy: str) -> None:
    planner = RulePlanner(strategy)  # type: ignore[arg-type]
    for question in (
        "json.dumps",
        "How much room is left on this disk?",
        "both json.dumps and meaning",
    ):
        assert planner.plan_now(question).strategy == strategy


@given(st.text(), st.lists(st.text(min_size=1), max_size=2))
def test_any_text_has_a_plan_and_always_the_same(question: str, before: list[str]) -> None:
    made = plan(question, *before)
    assert made == plan(question, *before)
    assert 1 <= made.k <= MOST_K
    assert made.reasons and all(made.reasons)
    assert made.query.endswith(question)


def test_words_count_little_in_a_story_and_fully_beside_a_name() -> None:
    story = plan("I have two lists. How do I find what they have in common?")
    assert story.lexical_weight < 1.0
    assert plan("How does numpy.median treat missing values?").lexical_weight == 1.0


def test_names_that_look_like_words_can_be_told() -> None:
    question = "What can the frobnicator do about missing values?"
    assert RulePlanner().plan_now(question).strategy == "vector"
    assert RulePlanner(vocabulary=("frobnicator",)).plan_now(question).strategy == "hybrid"
