"""Which documents come in when, and where they go: routes by trigger and source.

A route says what makes the source of a request's options, and to which layer its documents go. They
are registered; this module knows none:

    @ROUTES.route("schedule", "wiki", Layer.CONTEXTUAL)
    def wiki(space: str) -> DocumentSource: ...
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from knowledge.types import Document, KnowledgeError, Layer, SourceError, UnknownTrigger, Value


class DocumentSource(Protocol):
    """Where documents come from. It is sent to other processes, so it can be pickled."""

    def shards(self) -> Sequence[Any]:
        """Return parts of the source that can be read apart from one another; small, picklable.

        Raises:
            SourceError: the source is not there.
        """
        ...

    def read(self, shard: Any) -> Iterator[Document]:
        """Yield the documents of a part.

        Raises:
            SourceError: something in it is no document; the message says where.
        """
        ...


SourceFactory = Callable[..., DocumentSource]
Factory = TypeVar("Factory", bound=SourceFactory)


@dataclasses.dataclass(frozen=True)
class IngestRequest:
    """What is to be ingested.

    Args:
        trigger: why, as "manual" or "upload".
        source: what, as "directory".
        tenant: whose memory it becomes part of.
        options: of the source, as {"path": "notes"}.
    """

    trigger: str
    source: str
    tenant: str = "default"
    options: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Route:
    """Where a trigger and a source lead."""

    trigger: str
    source: str
    layer: Layer
    factory: SourceFactory

    def open(self, options: Mapping[str, Value]) -> DocumentSource:
        """Return the source that the options describe.

        Raises:
            SourceError: an option is missing, unknown, or of no use.
        """
        try:
            bound = inspect.signature(self.factory).bind(**options)
        except TypeError as error:
            raise SourceError(f"source {self.source!r}: {error}; it takes {self.takes}") from None
        return self.factory(**bound.arguments)

    @property
    def takes(self) -> str:
        """The options, for people: "path, pattern='*.md'"."""
        return ", ".join(
            name if given.default is given.empty else f"{name}={given.default!r}"
            for name, given in inspect.signature(self.factory).parameters.items()
        )


class Routes:
    """A register of routes."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], Route] = {}

    def register(self, trigger: str, source: str, layer: Layer, factory: SourceFactory) -> Route:
        """Add a route.

        Raises:
            KnowledgeError: there is one for this trigger and source already.
        """
        key = (trigger, source)
        if key in self._routes:
            raise KnowledgeError(f"there is a route for {trigger!r} and {source!r} already")
        self._routes[key] = Route(trigger, source, layer, factory)
        return self._routes[key]

    def route(self, trigger: str, source: str, layer: Layer) -> Callable[[Factory], Factory]:
        """Decorate what makes a source, to add a route to it; see `register`."""

        def register(factory: Factory) -> Factory:
            self.register(trigger, source, layer, factory)
            return factory

        return register

    def resolve(self, trigger: str, source: str) -> Route:
        """Return the route of a trigger and a source.

        Raises:
            UnknownTrigger: there is none; the message lists those that there are.
        """
        route = self._routes.get((trigger, source))
        if route is not None:
            return route
        triggers = sorted({known for known, _ in self._routes})
        if trigger not in triggers:
            raise UnknownTrigger(f"unknown trigger {trigger!r}; known: {_listed(triggers)}")
        sources = sorted(known for of, known in self._routes if of == trigger)
        raise UnknownTrigger(
            f"trigger {trigger!r} leads nowhere for source {source!r}; known: {_listed(sources)}"
        )

    def __iter__(self) -> Iterator[Route]:
        """Yield the routes by trigger and source."""
        return iter(self._routes[key] for key in sorted(self._routes))


ROUTES = Routes()
"""The routes of this process. Register your own before you ingest."""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
