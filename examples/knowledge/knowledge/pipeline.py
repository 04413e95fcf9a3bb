"""Fluent pipelines, checked before they run, and what runs them.

    Pipeline("answers") >> Questions(("What is a B-tree?",)) >> Retrieve() >> MakePrompt() >> Generate()

A type checker sees the edges, and `check` looks at them again when a pipeline is submitted, because
one that was read from a file has no type checker.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise
from typing import Any, Generic, Literal, TypeVar

from knowledge.operators import Nothing, Operator, Resources, Source, Step
from knowledge.types import KnowledgeError

Out = TypeVar("Out")
New = TypeVar("New")
State = Literal["running", "stopping", "stopped", "done", "failed"]
_KEPT_RESULTS = 1000


class PipelineError(KnowledgeError):
    """A pipeline is put together wrongly; the message names the operators and their types."""


class Pipeline(Generic[Out]):
    """Operators in a row; `then` and `>>` return a longer one and leave this as it is.

    Args:
        name: what it is known by while it runs.
        operators: those it has already.
    """

    def __init__(self, name: str, operators: Sequence[Operator[Any, Any]] = ()) -> None:
        if not name or not name.replace("-", "").replace("_", "").isalnum():
            raise PipelineError(f"a pipeline's name has letters, digits, - and _, not {name!r}")
        self.name = name
        self.operators = tuple(operators)

    def then(self, operator: Operator[Any, New]) -> Pipeline[New]:
        """Return this pipeline with one more operator."""
        if not isinstance(operator, Operator):
            raise PipelineError(f"pipeline {self.name!r}: {operator!r} is no operator")
        return Pipeline(self.name, (*self.operators, operator))

    def __rshift__(self, operator: Operator[Any, New]) -> Pipeline[New]:
        """Return this pipeline with one more operator."""
        return self.then(operator)

    def check(self, given: type[Any] = Nothing) -> None:
        """See that each operator takes what the one before gives.

        Args:
            given: what the first one gets; NoneType where it is a source.

        Raises:
            PipelineError: it does not; the message names both operators and both types.
        """
        if not self.operators:
            raise PipelineError(f"pipeline {self.name!r} has no operators")
        first = self.operators[0]
        if not issubclass(given, first.takes):
            wanted = "a source" if given is Nothing else f"an operator that takes {given.__name__}"
            raise PipelineError(
                f"pipeline {self.name!r} starts with {first.name}, which takes"
                f" {_shown(first.takes)}; it must start with {wanted}"
            )
        for place, (before, after) in enumerate(pairwise(self.operators), 1):
            if not issubclass(before.gives, after.takes):
                raise PipelineError(
                    f"pipeline {self.name!r}: step {place + 1}, {after.name}, takes"
                    f" {_shown(after.takes)}, but step {place}, {before.name}, gives"
                    f" {_shown(before.gives)}"
                )


@dataclasses.dataclass(frozen=True)
class PipelineStatus:
    """What a pipeline is doing.

    Args:
        read: values its source gave.
        finished: values that came out at its end.
        failed: values that an operator could not process; they hold up no other.
        last_error: of the latest failure, or why the pipeline failed as a whole; empty for none.
        spent_ms: by operator.
        seconds: since the start, or from it to the end.
    """

    name: str
    state: State
    read: int
    finished: int
    failed: int
    last_error: str
    spent_ms: dict[str, float]
    seconds: float


class Chain:
    """Operators at work on values that are handed in.

    Args:
        operators: without a source.
        resources: what they work with.
    """

    def __init__(self, operators: Sequence[Operator[Any, Any]], resources: Resources) -> None:
        self.spent_ms: Counter[str] = Counter()
        self.steps: list[tuple[str, Step[Any, Any]]] = []
        for operator in operators:
            self.steps.append((operator.name, operator.open(resources)))

    async def run(self, item: Any) -> list[Any]:
        """Return what comes out at the end for one value."""
        items = [item]
        for name, step in self.steps:
            start = time.perf_counter()
            try:
                items = [made for taken in items for made in await step.process(taken)]
            finally:
                self.spent_ms[name] += (time.perf_counter() - start) * 1000.0  # type: ignore[assignment]
        return items

    async def close(self) -> None:
        """Close the steps."""
        for _, step in self.steps:
            await step.close()


class Run:
    """One run of a pipeline that has a source, on one event loop.

    Values go through one after another, in the source's order, which is also the order in which
    they are written.

    Args:
        pipeline: as checked.
        resources: what its operators work with.
    """

    def __init__(self, pipeline: Pipeline[Any], resources: Resources) -> None:
        pipeline.check()
        source, *operators = pipeline.operators
        if not isinstance(source, Source):
            raise PipelineError(f"pipeline {pipeline.name!r} starts with {source.name}, no source")
        self._name = pipeline.name
        self._source = source
        self._chain = Chain(operators, resources)
        self._stop = asyncio.Event()
        self._state: State = "running"
        self._counts: Counter[str] = Counter()
        self._last_error = ""
        self._start_s = time.monotonic()
        self._end_s: float | None = None
        self.results: list[Any] = []

    async def run(self) -> PipelineStatus:
        """Process what the source gives until it ends or `stop` is called; return the status."""
        try:
            await self._drain_source()
            self._state = "stopped" if self._stop.is_set() else "done"
        except Exception as error:
            self._state = "failed"
            self._last_error = f"{type(error).__name__}: {error}"
        finally:
            self._end_s = time.monotonic()
            await self._chain.close()
        return self.status()

    def stop(self) -> None:
        """Take nothing more from the source; what is being processed is finished."""
        if self._state == "running":
            self._state = "stopping"
        self._stop.set()

    def status(self) -> PipelineStatus:
        """Return what it is doing."""
        end_s = time.monotonic() if self._end_s is None else self._end_s
        return PipelineStatus(
            self._name,
            self._state,
            self._counts["read"],
            self._counts["finished"],
            self._counts["failed"],
            self._last_error,
            {name: round(spent, 3) for name, spent in self._chain.spent_ms.items()},
            round(end_s - self._start_s, 3),
        )

    async def _drain_source(self) -> None:
        items = self._source.items()
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            while not self._stop.is_set():
                coming = asyncio.ensure_future(_next(items))
                await asyncio.wait((coming, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait((coming,))
                    return
                item = coming.result()
                if item is _END:
                    return
                await self._process(item)
        finally:
            stopped.cancel()
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    async def _process(self, item: Any) -> None:
        self._counts["read"] += 1
        try:
            made = await self._chain.run(item)
        except Exception as error:
            self._counts["failed"] += 1
            self._last_error = f"{type(error).__name__}: {error}"
            return
        self._counts["finished"] += len(made)
        self.results += made
        # One that runs for weeks keeps the latest.
        del self.results[:-_KEPT_RESULTS]


_END = object()


async def _next(items: Any) -> Any:
    return await anext(items, _END)


def _shown(kind: type[Any]) -> str:
    return "nothing" if kind is Nothing else kind.__name__
