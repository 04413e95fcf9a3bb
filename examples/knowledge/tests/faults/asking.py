"""Askers that keep account of what they were told, and what they are owed by the memory."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter

import httpx

ANSWER_TIMEOUT_S = 60.0
# How long an asker who gets no answer asks again.
_PATIENCE_S = 120.0
_PAUSE_S = 0.2
QUESTIONS = (
    "What does heapq.merge do?",
    "How do I delete a whole folder with everything in it?",
    "What gives me the middle value of a list of numbers?",
    "How do I split a command line the way the shell does?",
    "What does asyncio.shield do?",
    "Which function copies a folder with its subfolders?",
)


@dataclasses.dataclass
class Account:
    """What became of the questions of all askers.

    Args:
        answered: query ids with an answer, by session.
        errors: how often askers were told of an error, by its kind.
        unheard: query ids that once got neither answer nor error in time.
        given_up: query ids without an answer when their askers had no more patience.
    """

    answered: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    unheard: list[str] = dataclasses.field(default_factory=list)
    given_up: list[str] = dataclasses.field(default_factory=list)

    @property
    def answers(self) -> int:
        """How many questions were answered."""
        return sum(map(len, self.answered.values()))


async def ask_many(url: str, askers: int, each: int, prefix: str) -> Account:
    """Ask with many askers at once, each one question after the other in a session of its own.

    An asker who is told of an error asks again, with the same query id, until there is an answer.

    Args:
        url: of the service.
        each: questions an asker asks.
        prefix: of the sessions' names.
    """
    account = Account()
    limits = httpx.Limits(max_connections=askers, max_keepalive_connections=askers)
    async with httpx.AsyncClient(
        base_url=url, timeout=ANSWER_TIMEOUT_S, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(
            *(_ask_in_turn(client, f"{prefix}-{number}", each, account) for number in range(askers))
        )
    return account


async def _ask_in_turn(
    client: httpx.AsyncClient, session: str, each: int, account: Account
) -> None:
    for number in range(each):
        query_id = f"{session}-q{number}"
        question = QUESTIONS[(number + len(session)) % len(QUESTIONS)]
        body = {"question": question, "session_id": session, "query_id": query_id}
        try:
            await asyncio.wait_for(_ask_until_answered(client, body, account), _PATIENCE_S)
        except asyncio.TimeoutError:
            account.given_up.append(query_id)
            continue
        account.answered.setdefault(session, []).append(query_id)


async def _ask_until_answered(
    client: httpx.AsyncClient, body: dict[str, str], account: Account
) -> None:
    while not await _is_answered(client, body, account):
        await asyncio.sleep(_PAUSE_S)


async def _is_answered(client: httpx.AsyncClient, body: dict[str, str], account: Account) -> bool:
    try:
        reply = await client.post("/ask", json=body)
    except httpx.ReadTimeout:
        account.unheard.append(body["query_id"])
        return False
    except httpx.TransportError as error:
        account.errors[type(error).__name__] += 1
        return False
    if reply.status_code == httpx.codes.OK:
        told = reply.json()
        assert told["query_id"] == body["query_id"]
        assert told["question"] == body["question"]
        return True
    account.errors[f"status {reply.status_code}"] += 1
    return False
