"""Answers questions: the answering pipeline behind the query queue, on one event loop."""

from __future__ import annotations

import asyncio

from knowledge.config import Settings
from knowledge.operators import Question, Resources, RetrieveStep
from knowledge.pipeline import Chain
from knowledge.queue import Priority, QueryQueue, QueueStats
from knowledge.types import Answer, Plan, Scope


class Engine:
    """The part of the service that knows no HTTP.

    Args:
        resources: memory, embedder and, where one is set, the language model.
        settings: of the pipeline and the queue.
    """

    def __init__(self, resources: Resources, settings: Settings) -> None:
        pipeline = settings.answering()
        pipeline.check(Question)
        self._settings = settings
        self._chain = Chain(pipeline.operators, resources)
        self._queue: QueryQueue[Question, Answer]
        self._queue = QueryQueue(self._answer, settings.capacity, settings.workers)

    def submit(
        self,
        question: Question,
        priority: Priority = Priority.NORMAL,
        deadline_ms: float | None = None,
    ) -> asyncio.Future[Answer]:
        """Queue a question; see `QueryQueue.submit`. Without a deadline, the settings' one holds."""
        if deadline_ms is None:
            deadline_ms = self._settings.deadline_ms
        return self._queue.submit(question, priority=priority, deadline_ms=deadline_ms)

    async def plan(self, text: str, scope: Scope) -> Plan:
        """Return how a question would be answered; nothing is searched or remembered."""
        step = self._chain.steps[0][1]
        assert isinstance(step, RetrieveStep)
        return await step.plan(Question(text, scope))

    def stats(self) -> QueueStats:
        """Return what the queue is doing."""
        return self._queue.stats()

    async def close(self) -> None:
        """Answer what was taken, as long as the settings allow, and take nothing more."""
        await self._queue.close(self._settings.drain_s)
        await self._chain.close()

    async def _answer(self, question: Question, waited_ms: float) -> Answer:
        question.timings.add("queue", waited_ms)
        (answer,) = await self._chain.run(question)
        assert isinstance(answer, Answer)
        return answer
