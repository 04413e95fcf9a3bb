"""The Python face: one-shot questions, and pipelines that run on Ray with a status and a stop.

with Session() as knowledge:
    print(knowledge.run_query("What does heapq.merge do?", "my-session").text)
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import ray

from knowledge.config import Settings, load_pipeline, load_settings
from knowledge.operators import Question
from knowledge.pipeline import Chain, Pipeline, PipelineStatus, Run
from knowledge.resources import LocalEmbedder, connect, deployed_embedder
from knowledge.types import Answer, KnowledgeError, Scope

NAMESPACE = "knowledge"
_PREFIX = "pipeline-"
_OVER = ("stopped", "done", "failed")
_POLL_S = 0.1
Reply = TypeVar("Reply")


class Session:
    """Questions and pipelines on the Ray that this process is connected to, or a local one.

    The memory is the one that the settings name, shared with a service that runs on the same Ray;
    the embedder is the service's, or one of this process where no service runs.

    Args:
        settings: those of the environment by default.

    Raises:
        KnowledgeError: the memory cannot be used.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load_settings()
        if not ray.is_initialized():
            ray.init(namespace=NAMESPACE, log_to_driver=False)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        embedder = deployed_embedder() or LocalEmbedder(self._settings.embedder)
        _, resources = connect(self._settings, embedder)
        pipeline = self._settings.answering()
        pipeline.check(Question)
        self._chain = Chain(pipeline.operators, resources)

    def __enter__(self) -> Session:
        """Return the session."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def run_query(
        self,
        query: str,
        session_id: str | None = None,
        *,
        tenant: str = "default",
        query_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Return the answer to one question.

        Args:
            query: as asked; stored so, too.
            session_id: whose conversation it belongs to; None: it is remembered nowhere.
            query_id: the same for a repeated attempt, so that its exchange is stored once.
            timeout_s: in seconds; the deadline of the settings by default.

        Raises:
            KnowledgeError: there is no answer; the message says why.
        """
        question = Question(query, Scope(tenant, session_id))
        if query_id is not None:
            question = dataclasses.replace(question, query_id=query_id)
        (answer,) = self._wait(
            self._chain.run(question), timeout_s or self._settings.deadline_ms / 1000.0
        )
        assert isinstance(answer, Answer)
        return answer

    def submit(self, pipeline: Pipeline[Any] | Path | str) -> RunningPipeline:
        """Check a pipeline and start it in an actor of its own.

        Args:
            pipeline: or the YAML file that describes it. It has a source.

        Raises:
            PipelineError: its operators do not fit together.
            ConfigError: its file is wrong.
            KnowledgeError: one of its name is running.
        """
        if not isinstance(pipeline, Pipeline):
            pipeline = load_pipeline(Path(pipeline))
        pipeline.check()
        if _find(pipeline.name) is not None:
            raise KnowledgeError(f"a pipeline {pipeline.name!r} is running already; stop it first")
        actor = _PipelineActor.options(  # type: ignore[attr-defined]
            name=_PREFIX + pipeline.name, namespace=NAMESPACE, lifetime="detached"
        ).remote(pipeline, self._settings)
        running = RunningPipeline(pipeline.name, actor)
        running.start()
        return running

    def pipeline(self, name: str) -> RunningPipeline:
        """Return a pipeline that was submitted here or elsewhere.

        Raises:
            KnowledgeError: there is none of this name.
        """
        actor = _find(name)
        if actor is None:
            raise KnowledgeError(f"no pipeline {name!r} is running")
        return RunningPipeline(name, actor)

    def close(self) -> None:
        """Close the connections; pipelines go on."""
        if self._loop.is_closed():
            return
        self._wait(self._chain.close(), 10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Reply], timeout_s: float) -> Reply:
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_s), self._loop)
        try:
            return future.result()
        except asyncio.TimeoutError:
            raise KnowledgeError(f"there was no answer within {timeout_s:g} s") from None


class RunningPipeline:
    """A pipeline in its actor.

    Args:
        name: of the pipeline.
        actor: that runs it.
    """

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor
        self._last: PipelineStatus | None = None
        self._results: list[Any] = []

    def start(self) -> None:
        """Start it, in its new actor; the actor of one that cannot start ends.

        Raises:
            KnowledgeError: something that it works with is not there.
        """
        try:
            self._ask("start")
        except BaseException:
            ray.kill(self._actor)
            raise

    def status(self) -> PipelineStatus:
        """Return what it is doing, or how it ended."""
        if self._last is None:
            return self._ask("status")  # type: ignore[no-any-return]
        return self._last

    def stop(self, timeout_s: float = 60.0) -> PipelineStatus:
        """Take nothing more from its source, finish what is being processed, and end its actor.

        Raises:
            KnowledgeError: it does not end in time.
        """
        if self._last is None:
            self._ask("stop")
        return self.wait(timeout_s)

    def wait(self, timeout_s: float | None = None) -> PipelineStatus:
        """Wait for its end, end its actor, and return how it ended.

        Raises:
            KnowledgeError: it does not end in time; it goes on.
        """
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (status := self.status()).state not in _OVER:
            if end_s is not None and time.monotonic() > end_s:
                raise KnowledgeError(f"pipeline {self.name!r} did not end within {timeout_s:g} s")
            time.sleep(_POLL_S)
        if self._last is None:
            self._results = self._ask("results")
            self._last = status
            ray.kill(self._actor)
        return status

    def results(self) -> list[Any]:
        """Return what came out so far, the latest thousand."""
        return self._results if self._last else list(self._ask("results"))

    def _ask(self, method: str) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote())
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, KnowledgeError) else error) from None
        except ray.exceptions.RayActorError as error:
            raise KnowledgeError(f"pipeline {self.name!r} died: {error}") from None


@ray.remote(num_cpus=0)
class _PipelineActor:
    """Runs one pipeline on its event loop."""

    def __init__(self, pipeline: Pipeline[Any], settings: Settings) -> None:
        self._pipeline = pipeline
        self._settings = settings

    async def start(self) -> None:
        embedder = deployed_embedder() or LocalEmbedder(self._settings.embedder)
        _, resources = connect(self._settings, embedder)
        self._run = Run(self._pipeline, resources)
        self._task = asyncio.ensure_future(self._run.run())

    async def status(self) -> PipelineStatus:
        return self._run.status()

    async def results(self) -> list[Any]:
        return list(self._run.results)

    async def stop(self) -> None:
        self._run.stop()


def _find(name: str) -> Any:
    try:
        return ray.get_actor(_PREFIX + name, namespace=NAMESPACE)
    except ValueError:
        return None
