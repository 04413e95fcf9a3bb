"""Settings of the service, and pipelines written in YAML.

Both are read by the same rule: a mapping becomes a dataclass, its keys the fields. An unknown key,
a missing one or a value of another type is one clear sentence that says where.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from knowledge.chat import Endpoint
from knowledge.embedding import DEFAULT_EMBEDDER
from knowledge.generator import DEFAULT_THRESHOLD
from knowledge.operators import (
    Chunk,
    Directory,
    Generate,
    MakePrompt,
    MemoryWriter,
    Operator,
    Questions,
    Retrieve,
    Store,
    Summarise,
)
from knowledge.pipeline import Pipeline
from knowledge.planner import DEFAULT_K, DEFAULT_TOKEN_BUDGET, Choice
from knowledge.prompt import ANSWER_TEXT
from knowledge.types import KnowledgeError

Made = TypeVar("Made")
_PREFIX = "KNOWLEDGE_"


class ConfigError(KnowledgeError):
    """A setting or a file of settings is wrong; the message says which and where."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that can be set, by a YAML file and by variables KNOWLEDGE_<NAME>.

    Args:
        directory: of the memory, on a disk of the machine where the memory's actor runs.
        embedder: see `knowledge.embedding.make_embedder`.
        short_term_limit: exchanges of a session that stay in short-term memory.
        strategy: of every question, or "adaptive".
        planner: "rules", or "model": ask the endpoint.
        generator: "extractive", or "chat": ask the endpoint.
        k: passages for a plain question.
        token_budget: of the passages, in tokens.
        threshold: below which the extractive generator says that it does not know.
        template: of the prompt.
        endpoint: of a language model.
        capacity: queries that may wait, per replica of the service.
        workers: queries at work at once, per replica.
        deadline_ms: of a query that names none.
        drain_s: how long shutting down waits for queries.
        service_replicas: of the service.
        embedder_replicas: of the embedder.
        embed_batch: requests that the embedder takes together.
        embed_wait_ms: how long it waits for more of them.
        host: that HTTP listens on.
        port: and its port.
        http_triggers: of ingestion that HTTP may use; others read files of the service's machine.
    """

    directory: str = "knowledge-data"
    embedder: str = DEFAULT_EMBEDDER
    short_term_limit: int = 50
    strategy: Choice = "adaptive"
    planner: Literal["rules", "model"] = "rules"
    generator: Literal["extractive", "chat"] = "extractive"
    k: int = DEFAULT_K
    token_budget: int = DEFAULT_TOKEN_BUDGET
    threshold: float = DEFAULT_THRESHOLD
    template: str = ANSWER_TEXT
    endpoint: Endpoint | None = None
    capacity: int = 256
    workers: int = 8
    deadline_ms: float = 30_000.0
    drain_s: float = 20.0
    service_replicas: int = 1
    embedder_replicas: int = 1
    embed_batch: int = 16
    embed_wait_ms: float = 5.0
    host: str = "127.0.0.1"
    port: int = 8000
    http_triggers: tuple[str, ...] = ("upload", "fact")

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is more than 0, not {getattr(self, name)}")
        if self.embed_wait_ms < 0:
            raise ConfigError(f"embed_wait_ms is not negative, as {self.embed_wait_ms} is")
        if not -1.0 <= self.threshold <= 1.0:
            raise ConfigError(f"threshold is from -1 to 1, not {self.threshold}")
        if not 0 < self.port < 65_536:
            raise ConfigError(f"port is from 1 to 65535, not {self.port}")
        asks = self.planner == "model" or self.generator == "chat"
        if asks and self.endpoint is None:
            raise ConfigError("planner: model and generator: chat need an endpoint")
        MakePrompt(self.template)

    def answering(self) -> Pipeline[Any]:
        """Return the pipeline that answers questions, without a source."""
        return (
            Pipeline("answers")
            >> Retrieve(self.strategy, self.planner, self.k, self.token_budget)
            >> MakePrompt(self.template)
            >> Generate(self.generator, self.threshold)
            >> MemoryWriter()
        )


_POSITIVE = (
    "short_term_limit",
    "k",
    "token_budget",
    "capacity",
    "workers",
    "deadline_ms",
    "drain_s",
    "service_replicas",
    "embedder_replicas",
    "embed_batch",
)


def load_settings(
    file: Path | None = None, environ: Mapping[str, str] = os.environ, **given: object
) -> Settings:
    """Return the settings: defaults, then the file's, then the environment's, then those given.

    Args:
        file: YAML, a mapping of setting to value.
        environ: KNOWLEDGE_K=8 sets k, KNOWLEDGE_ENDPOINT_MODEL=m the endpoint's model.
        given: of the command line; None where nothing was given.

    Raises:
        ConfigError: something in them is wrong.
    """
    values: dict[str, Any] = dict(_mapping(_read(file), str(file))) if file else {}
    where = str(file) if file else "settings"
    endpoint = dict(_mapping(values.get("endpoint") or {}, f"{where}, endpoint"))
    for name in _names(Settings) - {"endpoint", "http_triggers"}:
        if (text := environ.get(f"{_PREFIX}{name.upper()}")) is not None:
            values[name] = yaml.safe_load(text) if _is_number(Settings, name) else text
    for name in _names(Endpoint):
        if (text := environ.get(f"{_PREFIX}ENDPOINT_{name.upper()}")) is not None:
            endpoint[name] = yaml.safe_load(text) if _is_number(Endpoint, name) else text
    values.update({name: value for name, value in given.items() if value is not None})
    if endpoint:
        values["endpoint"] = endpoint
    return build(Settings, values, where)


OPERATORS: dict[str, type[Operator[Any, Any]]] = {
    "questions": Questions,
    "directory": Directory,
    "retriever": Retrieve,
    "prompt": MakePrompt,
    "generator": Generate,
    "writer": MemoryWriter,
    "chunk": Chunk,
    "summarise": Summarise,
    "store": Store,
}
"""The operators by the names that they have in YAML; register others here."""


def load_pipeline(file: Path) -> Pipeline[Any]:
    """Return the pipeline that a YAML file describes, with its edges checked.

    The file has `pipeline:`, its name, and `steps:`, a list of operator names, each alone or with a
    mapping of its settings.

    Raises:
        ConfigError: the file is wrong.
        PipelineError: its operators do not fit together.
    """
    told = _mapping(_read(file), str(file))
    _keys(told, {"pipeline", "steps"}, {"pipeline", "steps"}, str(file))
    if not isinstance(told["steps"], list) or not told["steps"]:
        raise ConfigError(f"{file}: steps are a list of operators")
    pipeline: Pipeline[Any] = Pipeline(str(told["pipeline"]))
    for number, step in enumerate(told["steps"], 1):
        pipeline = pipeline.then(_operator(step, f"{file}, step {number}"))
    pipeline.check()
    return pipeline


def build(kind: type[Made], values: Mapping[str, Any], where: str) -> Made:
    """Return a dataclass of values by field name.

    Raises:
        ConfigError: a name is unknown or missing, or a value of another type than its field.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    required = {name for name, field in fields.items() if _is_required(field)}
    _keys(values, set(fields), required, where)
    hints = typing.get_type_hints(kind)
    made = {name: _value(hints[name], value, f"{where}, {name}") for name, value in values.items()}
    try:
        return kind(**made)
    except KnowledgeError as error:
        raise ConfigError(f"{where}: {error}") from error


def _operator(step: object, where: str) -> Operator[Any, Any]:
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, dict) or len(step) != 1:
        raise ConfigError(f"{where}: a step is an operator's name, with or without its settings")
    ((name, values),) = step.items()
    if name not in OPERATORS:
        raise ConfigError(f"{where}: no operator {name!r}; there are {', '.join(OPERATORS)}")
    return build(OPERATORS[name], _mapping(values or {}, where), where)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(one for one in arguments if one is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where} is one of {', '.join(arguments)}, not {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} is a list, not {value!r}")
        return tuple(_value(arguments[0], one, where) for one in value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, _mapping(value, where), where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {_KINDS[hint]}, not {value!r}")
    return value


_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _read(file: Path) -> object:
    try:
        return yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from None


def _mapping(told: object, where: str) -> Mapping[str, Any]:
    if not isinstance(told, dict) or not all(isinstance(key, str) for key in told):
        raise ConfigError(f"{where}: a mapping of names to values is expected, not {told!r:.80}")
    return told


def _keys(values: Mapping[str, Any], known: set[str], required: set[str], where: str) -> None:
    unknown, missing = set(values) - known, required - set(values)
    if unknown:
        raise ConfigError(
            f"{where}: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
        )
    if missing:
        raise ConfigError(f"{where}: {', '.join(sorted(missing))} must be given")


def _names(kind: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _is_number(kind: type[Any], name: str) -> bool:
    return typing.get_type_hints(kind)[name] in (int, float)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
