"""What goes over HTTP: the shapes of requests and replies, for the service, the page and the CLI."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from knowledge.types import Answer, Citation, Hit, Plan, Record

_MOST_LETTERS = 4000
_LONGEST_DEADLINE_MS = 600_000.0
Name = Field(default=None, min_length=1, max_length=200, pattern=r"^[\w.:@-]+$")


class _Strict(BaseModel):
    """A misspelt field is an error, not a setting without effect."""

    model_config = ConfigDict(extra="forbid")


class PlanRequest(_Strict):
    """A question whose plan is wanted."""

    question: str = Field(min_length=1, max_length=_MOST_LETTERS)
    session_id: str | None = Name
    tenant: str | None = Name


class AskRequest(PlanRequest):
    """A question.

    Attributes:
        query_id: the same for a repeated attempt; its exchange is then remembered once.
        explain: whether the reply has the plan and the passages.
    """

    query_id: str | None = Name
    priority: Literal["high", "normal", "low"] = "normal"
    deadline_ms: float | None = Field(default=None, gt=0, le=_LONGEST_DEADLINE_MS)
    explain: bool = False


class IngestRequest(_Strict):
    """Documents to be taken in.

    Attributes:
        trigger: why; which ones HTTP may use is a setting.
        source: what, as "text".
        options: of the source, as {"text": "...", "title": "..."}.
    """

    trigger: str = Field(min_length=1, max_length=200)
    source: str = Field(min_length=1, max_length=200)
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    tenant: str | None = Name


class IngestReply(BaseModel):
    """What became of the documents.

    Attributes:
        documents: that are in now.
        written: of these, new or changed.
        pieces: written.
    """

    documents: int
    written: int
    pieces: int


class CitationReply(BaseModel):
    """What a mark such as [1] in an answer means."""

    number: int
    record_id: str
    uri: str
    title: str
    position: int
    quote: str


class PlanReply(BaseModel):
    """How a question is answered."""

    strategy: str
    layers: list[str]
    k: int
    summarise: bool
    token_budget: int
    query: str
    reasons: list[str]


class HitReply(BaseModel):
    """A passage that was found.

    Attributes:
        found_by: the searches that found it, and at what rank.
    """

    record_id: str
    layer: str
    kind: str
    uri: str
    title: str
    text: str
    score: float
    similarity: float | None
    found_by: dict[str, int]


class AskReply(BaseModel):
    """An answer.

    Attributes:
        known: false when the memory holds no answer; `answer` then says so.
        timings_ms: by stage.
    """

    query_id: str
    session_id: str | None
    question: str
    answer: str
    known: bool
    citations: list[CitationReply]
    timings_ms: dict[str, float]
    plan: PlanReply | None = None
    hits: list[HitReply] | None = None


class ExchangeReply(BaseModel):
    """A question and its answer, as remembered."""

    record_id: str
    question: str
    answer: str
    created_s: float


class SessionReply(BaseModel):
    """A session's short-term memory, newest first."""

    session_id: str
    exchanges: list[ExchangeReply]


class CountReply(BaseModel):
    """How many records something concerned."""

    count: int


class Problem(BaseModel):
    """Why there is no answer."""

    error: str
    message: str


def plan_reply(plan: Plan) -> PlanReply:
    """Return a plan for the wire."""
    return PlanReply(
        strategy=plan.strategy,
        layers=[layer.value for layer in plan.layers],
        k=plan.k,
        summarise=plan.summarise,
        token_budget=plan.token_budget,
        query=plan.query,
        reasons=list(plan.reasons),
    )


def ask_reply(answer: Answer, explain: bool) -> AskReply:
    """Return an answer for the wire."""
    reply = AskReply(
        query_id=answer.query_id,
        session_id=answer.scope.session,
        question=answer.question,
        answer=answer.text,
        known=answer.known,
        citations=[_citation(n, citation) for n, citation in enumerate(answer.citations, 1)],
        timings_ms=dict(answer.timings_ms),
    )
    if explain:
        reply.plan = plan_reply(answer.plan)
        reply.hits = [_hit(hit) for hit in answer.hits]
    return reply


def session_reply(session_id: str, records: list[Record]) -> SessionReply:
    """Return a session's exchanges for the wire."""
    exchanges = [
        ExchangeReply(
            record_id=record.id,
            question=record.question,
            answer=record.text,
            created_s=record.created_s,
        )
        for record in records
    ]
    return SessionReply(session_id=session_id, exchanges=exchanges)


def _citation(number: int, citation: Citation) -> CitationReply:
    source = citation.source
    return CitationReply(
        number=number,
        record_id=citation.record_id,
        uri=source.uri,
        title=source.title,
        position=source.position,
        quote=citation.quote,
    )


def _hit(hit: Hit) -> HitReply:
    record = hit.record
    return HitReply(
        record_id=record.id,
        layer=record.layer.value,
        kind=record.kind.value,
        uri=record.source.uri,
        title=record.source.title,
        text=record.text,
        score=hit.score,
        similarity=hit.similarity,
        found_by=dict(hit.found_by),
    )


def as_text(told: dict[str, Any]) -> str:
    """Return an `AskReply`, as JSON has it, as lines for people."""
    lines = [told["answer"], ""]
    for citation in told["citations"]:
        lines.append(f"  [{citation['number']}] {citation['title']}  {citation['uri']}")
    if told.get("plan"):
        plan = told["plan"]
        lines.append(f"  plan: {plan['strategy']}, k={plan['k']}, {' > '.join(plan['layers'])}")
        lines += [f"    {reason}" for reason in plan["reasons"]]
    for hit in told.get("hits") or ():
        found = ", ".join(f"{search} #{rank}" for search, rank in hit["found_by"].items())
        lines.append(f"  found: {hit['title']} ({hit['layer']}; {found})")
    spent = ", ".join(f"{stage} {ms:.0f}" for stage, ms in told["timings_ms"].items())
    lines.append(f"  ms: {spent}")
    return "\n".join(lines)
