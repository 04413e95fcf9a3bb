"""Finds every metric of the product where it is declared."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# What Ray puts before the names of a node's metrics.
NODE_PREFIX = "ray_"
_NAME = re.compile(r"mantaray_[a-z_]+")
_PREFIX = re.compile(r'kPrefix = "(\w+)"')
# `const std::string full = std::string(kPrefix) + "delay_seconds";`
_VARIABLE = re.compile(r'std::string (\w+) = std::string\(kPrefix\) \+ "(\w+)"')
_HEADER = re.compile(r'RenderHeader\((?:"(\w+)"|(\w+)),\s*"(\w+)",\s*((?:"[^"]*"\s*)+)')
_BY_LAMBDA = re.compile(r'\b(gauge|counter)\("(\w+)", "([^"]*)"')
_TRAFFIC = re.compile(r'Render\(\{"(\w+)", "([^"]*)"')
_LABEL = re.compile(r'[{,](\w+)=\\"')


@dataclass(frozen=True, order=True)
class Metric:
    """One metric.

    Attributes:
        name: as Prometheus has it.
        kind: gauge, counter or histogram.
        labels: by which its series differ, those apart that Ray or Prometheus add to every metric.
        description: what it says.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    description: str

    def series(self) -> tuple[str, ...]:
        """Return the names that queries can use."""
        if self.kind != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))


def node_metrics(root: Path) -> list[Metric]:
    """Return the metrics that the agent of a node exports.

    Args:
        root: the directory of the Python package.
    """
    found: dict[str, Metric] = {}
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        if "mantaray_" in text:
            for metric in _declared(ast.parse(text)):
                found.setdefault(metric.name, metric)
    return sorted(found.values())


def relay_metrics(root: Path) -> list[Metric]:
    """Return the metrics that a relay exports.

    Args:
        root: the directory of the relay's C++ sources.
    """
    found = []
    for path in sorted(root.glob("*metrics.cc")):
        text = path.read_text()
        prefix = match[1] if (match := _PREFIX.search(text)) else ""
        variables = {name: prefix + rest for name, rest in _VARIABLE.findall(text)}
        for literal, variable, kind, words in _HEADER.findall(text):
            if name := literal or variables.get(variable):
                description = "".join(re.findall(r'"([^"]*)"', words))
                labels = _labels_of(text, f'"{literal}"' if literal else variable)
                found.append(Metric(name, kind, labels, description))
        for kind, name, description in _BY_LAMBDA.findall(text):
            found.append(Metric(prefix + name, kind, (), description))
        traffic = text.partition("void Render(const Traffic&")[2].partition("\n}\n")[0]
        sides = tuple(dict.fromkeys(_LABEL.findall(traffic)))
        for name, description in _TRAFFIC.findall(text):
            found.append(Metric(prefix + name, "counter", sides, description))
    return sorted(found)


def _labels_of(text: str, name: str) -> tuple[str, ...]:
    samples = re.findall(rf"RenderSample\({re.escape(name)}, ([^;]*);", text)
    return tuple(dict.fromkeys(label for sample in samples for label in _LABEL.findall(sample)))


def _declared(module: ast.Module) -> Iterator[Metric]:
    constants = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    prefix = _constant(constants.get("PREFIX"), constants)
    for scope in ast.walk(module):
        if not isinstance(scope, ast.Module | ast.FunctionDef):
            continue
        dictionaries = {
            target.id: node.value
            for node in ast.walk(scope)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Dict)
        }
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Metric" and prefix:
                yield from _below(prefix, node.args, constants)
            elif isinstance(node, ast.Call):
                yield from _in_sequence(node.args, constants, dictionaries)
            elif isinstance(node, ast.Tuple):
                yield from _in_sequence(node.elts, constants, dictionaries)


def _in_sequence(
    values: list[ast.expr],
    constants: Mapping[str, ast.expr],
    dictionaries: Mapping[str, ast.Dict],
) -> Iterator[Metric]:
    """Yield the metric that a call's arguments or a tuple begin with: its name and its description."""
    first, second = [_constant(value, constants) for value in (*values[:2], None, None)][:2]
    if first is None or second is None or not _NAME.fullmatch(first) or " " not in second:
        return
    labels: list[str] = []
    for value in values[2:]:
        given = dictionaries.get(value.id) if isinstance(value, ast.Name) else value
        if isinstance(given, ast.Dict):
            labels += filter(None, (_constant(key, constants) for key in given.keys))
        elif isinstance(given, ast.List):
            labels += filter(None, (_constant(each, constants) for each in given.elts))
    yield Metric(
        NODE_PREFIX + first, "gauge", tuple(each for each in labels if each != "ip"), second
    )


def _below(
    prefix: str, values: list[ast.expr], constants: Mapping[str, ast.expr]
) -> Iterator[Metric]:
    """Yield the metric of a table: `Metric(figure, name, unit, description)` beside a PREFIX."""
    given = [_constant(value, constants) for value in values]
    if len(given) == 4 and given[1] and given[3]:
        labels: tuple[str, ...] = ()
        if "_call_" in f"_{given[1]}":
            labels = ("Operation", "le") if given[1].endswith("_bucket") else ("Operation",)
        yield Metric(NODE_PREFIX + prefix + given[1], "gauge", labels, given[3])


def _constant(value: ast.expr | None, constants: Mapping[str, ast.expr]) -> str | None:
    if isinstance(value, ast.Name):
        value = constants.get(value.id)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
