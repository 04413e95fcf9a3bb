"""Pipelines: wrong edges are named before anything runs; runs have a status, stop, and outlive errors."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from knowledge.config import ConfigError, Settings, load_pipeline, load_settings
from knowledge.operators import (
    Directory,
    Generate,
    MakePrompt,
    MemoryWriter,
    Operator,
    Question,
    Questions,
    Resources,
    Retrieve,
    Source,
    Step,
)
from knowledge.pipeline import Chain, Pipeline, PipelineError, PipelineStatus, Run
from knowledge.prompt import PromptError
from knowledge.types import Document, KnowledgeError

# Nothing in this file reaches for memory or model.
NO_RESOURCES = cast(Resources, None)


@dataclasses.dataclass(frozen=True)
class Count(Source[int]):
    """Whole numbers, one a turn, without end where `end` is None."""

    gives = int
    end: int | None = 3
    pause_s: float = 0.0
    fails_at: int | None = None

    async def items(self) -> AsyncIterator[int]:
        number = 0
        while self.end is None or number < self.end:
            if number == self.fails_at:
                raise OSError("the source broke")
            yield number
            number += 1
            await asyncio.sleep(self.pause_s)


@dataclasses.dataclass(frozen=True)
class Divide(Operator[int, float]):
    """12 divided by what comes."""

    takes = int
    gives = float

    def open(self, resources: Resources) -> Step[int, float]:
        return _DivideStep()


class _DivideStep(Step[int, float]):
    async def process(self, item: int) -> Sequence[float]:
        return [12 / item]


@dataclasses.dataclass(frozen=True)
class Twice(Operator[float, float]):
    """What comes, two times."""

    takes = float
    gives = float

    def open(self, resources: Resources) -> Step[float, float]:
        return _TwiceStep()


class _TwiceStep(Step[float, float]):
    async def process(self, item: float) -> Sequence[float]:
        return [item, item]


def run(pipeline: Pipeline[Any]) -> tuple[PipelineStatus, list[Any]]:
    """Run a pipeline to its end."""

    async def main() -> tuple[PipelineStatus, list[Any]]:
        running = Run(pipeline, NO_RESOURCES)
        status = await asyncio.wait_for(running.run(), 120)
        return status, running.results

    return asyncio.run(main())


def test_pipeline_of_questions_checks() -> None:
    pipeline = Pipeline("p") >> Questions(("q",)) >> Retrieve() >> MakePrompt() >> Generate()
    (pipeline >> MemoryWriter()).check()
    Settings().answering().check(Question)


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ((), "pipeline 'p' has no operators"),
        (
            (Retrieve(), MakePrompt()),
            "pipeline 'p' starts with Retrieve, which takes Question; it must start with a source",
        ),
        (
            (Questions(("q",)), MakePrompt()),
            "pipeline 'p': step 2, MakePrompt, takes Retrieved, but step 1, Questions, gives Question",
        ),
        (
            (Directory("."), Retrieve()),
            "step 2, Retrieve, takes Question, but step 1, Directory, gives Document",
        ),
        (
            (Questions(("q",)), Retrieve(), MakePrompt(), MemoryWriter()),
            "step 4, MemoryWriter, takes Answer, but step 3, MakePrompt, gives Prompted",
        ),
        (
            (Questions(("q",)), Questions(("q",))),
            "step 2, Questions, takes nothing, but step 1, Questions, gives Question",
        ),
    ],
)
def test_edge_that_does_not_fit_is_named_with_both_operators_and_types(
    operators: tuple[Operator[Any, Any], ...], message: str
) -> None:
    pipeline: Pipeline[Any] = Pipeline("p", operators)
    with pytest.raises(PipelineError, match=message):
        pipeline.check()
    with pytest.raises(PipelineError, match=message):
        Run(pipeline, NO_RESOURCES)


def test_what_is_no_operator_is_refused_where_it_is_written() -> None:
    with pytest.raises(PipelineError, match="is no operator"):
        Pipeline("p") >> "retriever"  # type: ignore[operator]
    with pytest.raises(PipelineError, match="a pipeline's name"):
        Pipeline("a b")


def test_a_longer_pipeline_leaves_the_shorter_as_it_was() -> None:
    short = Pipeline("p") >> Count()
    assert len((short >> Divide()).operators) == 2
    assert len(short.operators) == 1


def test_subclass_fits_where_its_base_is_taken() -> None:
    @dataclasses.dataclass(frozen=True)
    class Truths(Source[bool]):
        gives = bool

        async def items(self) -> AsyncIterator[bool]:
            yield True

    (Pipeline("p") >> Truths() >> Divide()).check()


def test_value_that_fails_is_counted_and_harms_no_other() -> None:
    status, results = run(Pipeline("p") >> Count(4) >> Divide() >> Twice())
    assert results == [12.0, 12.0, 6.0, 6.0, 4.0, 4.0]
    assert (status.state, status.read, status.finished, status.failed) == ("done", 4, 6, 1)
    assert status.last_error == "ZeroDivisionError: division by zero"
    assert set(status.spent_ms) == {"Divide", "Twice"}


def test_source_that_breaks_is_a_failed_run_that_says_why() -> None:
    status, results = run(Pipeline("p") >> Count(5, fails_at=2) >> Divide())
    assert (status.state, status.last_error) == ("failed", "OSError: the source broke")
    assert results == [12.0]


@pytest.mark.parametrize("pause_s", [0.0, 3600.0])
def test_endless_run_stops_when_told_even_while_its_source_waits(pause_s: float) -> None:
    async def main() -> None:
        running = Run(Pipeline("p") >> Count(None, pause_s) >> Divide(), NO_RESOURCES)
        task = asyncio.ensure_future(running.run())
        while running.status().read < 1:
            await asyncio.sleep(0)
        assert running.status().state == "running"
        running.stop()
        assert running.status().state == "stopping"
        status = await asyncio.wait_for(task, 120)
        assert status.state == "stopped"
        assert status.read == status.finished + status.failed

    asyncio.run(main())


def test_results_of_a_long_run_do_not_fill_the_memory() -> None:
    status, results = run(Pipeline("p") >> Count(1500) >> Divide())
    assert status.finished == 1499
    assert len(results) == 1000
    assert results[-1] == 12 / 1499


def test_chat_without_an_endpoint_is_refused_when_it_is_opened() -> None:
    resources = Resources(cast(Any, None), cast(Any, None))
    with pytest.raises(KnowledgeError, match="Generate asks a language model, but no endpoint"):
        Chain([Generate("chat")], resources)


def test_directory_gives_files_once_and_again_when_they_change(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt").write_text("second")
    (tmp_path / "c.bin").write_text("other")

    async def main() -> list[Document]:
        source = Directory(str(tmp_path), poll_s=0.01).items()
        found = [await anext(source), await anext(source)]
        (tmp_path / "a.txt").write_text("changed now")
        found.append(await asyncio.wait_for(anext(source), 120))
        return found

    found = asyncio.run(main())
    assert [document.text for document in found] == ["first", "second", "changed now"]
    assert found[0].uri == found[2].uri == f"file://{tmp_path.name}/a.txt"
    with pytest.raises(KnowledgeError, match="there is no directory"):
        asyncio.run(anext(Directory("/nowhere/at/all").items()))  # type: ignore[arg-type]


# --- YAML


def write(directory: Path, text: str) -> Path:
    """Write a YAML file."""
    file = directory / "p.yaml"
    file.write_text(text)
    return file


def test_pipeline_of_a_file_is_the_one_written_in_python(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
pipeline: morning
steps:
  - questions:
      texts: ["What is a heap?", "json.dumps"]
      session: morning
  - retriever: {strategy: lexical, k: 3}
  - prompt
  - generator: {threshold: 1}
  - writer
""",
    )
    pipeline = load_pipeline(file)
    assert pipeline.name == "morning"
    assert pipeline.operators == (
        Questions(("What is a heap?", "json.dumps"), session="morning"),
        Retrieve("lexical", k=3),
        MakePrompt(),
        Generate(threshold=1.0),
        MemoryWriter(),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no YAML"),
        ("[]", "a mapping of names to values is expected"),
        ("steps: [prompt]", "pipeline must be given"),
        ("pipeline: p\nsteps: []", "steps are a list"),
        ("pipeline: p\nsteps: [nothing]", "step 1: no operator 'nothing'; there are questions,"),
        ("pipeline: p\nsteps: [{prompt: {}, writer: {}}]", "step 1: a step is an operator's name"),
        ("pipeline: p\nsteps: [{questions: {}}]", "step 1: texts must be given"),
        ("pipeline: p\nsteps: [{questions: {texts: q}}]", "step 1, texts is a list, not 'q'"),
        ("pipeline: p\nsteps: [{questions: {texts: [1]}}]", "texts is a text, not 1"),
        ("pipeline: p\nsteps: [{retriever: {k: many}}]", "step 1, k is a whole number, not 'many'"),
        ("pipeline: p\nsteps: [{retriever: {kk: 3}}]", "step 1: unknown kk; known: k, planner"),
        ("pipeline: p\nsteps: [{retriever: {strategy: luck}}]", "strategy is one of adaptive,"),
        ("pipeline: p\nsteps: [{prompt: {template: x}}]", "no context, question"),
    ],
)
def test_wrong_file_says_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_pipeline(write(tmp_path, text))


def test_file_whose_steps_do_not_fit_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "pipeline: p\nsteps: [{directory: {path: x}}, retriever]")
    with pytest.raises(PipelineError, match="Retrieve, takes Question, but step 1, Directory"):
        load_pipeline(file)


def test_settings_come_from_file_then_environment_then_arguments(tmp_path: Path) -> None:
    file = write(
        tmp_path, "k: 3\nworkers: 2\nport: 9000\nendpoint: {base_url: 'http://a', model: m}"
    )
    environ = {"KNOWLEDGE_WORKERS": "5", "KNOWLEDGE_PORT": "9001", "KNOWLEDGE_ENDPOINT_MODEL": "7"}
    settings = load_settings(file, environ, port=9002, host=None)
    assert (settings.k, settings.workers, settings.port) == (3, 5, 9002)
    assert settings.host == Settings().host
    assert settings.endpoint is not None
    assert (settings.endpoint.base_url, settings.endpoint.model) == ("http://a", "7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wrokers: 3", "unknown wrokers"),
        ("workers: 0", "workers is more than 0"),
        ("workers: true", "workers is a whole number, not True"),
        ("threshold: 7", "threshold is from -1 to 1"),
        ("port: 99999", "port is from 1 to 65535"),
        ("generator: chat", "need an endpoint"),
        ("planner: model", "need an endpoint"),
        ("endpoint: {base_url: x}", "endpoint: model must be given"),
        ("endpoint: {base_url: x, model: y, api_key: z}", "unknown api_key"),
        ("template: hello", "no context, question"),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((ConfigError, PromptError), match=message):
        load_settings(write(tmp_path, text), {})
    with pytest.raises(ConfigError, match="settings, k is a whole number"):
        load_settings(None, {"KNOWLEDGE_K": "many"})
