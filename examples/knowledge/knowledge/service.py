"""The service on Ray Serve: a batching embedder, and the HTTP face in front of the engine.

Whoever asks gets an answer or an error. Each replica of the service has its own bounded queue and
refuses with 429 what does not fit; a replica that dies takes its connections with it, and the proxy
tells the askers.

Serve takes the methods out of their class and sends them to the replicas while this module is being
imported: annotations are evaluated at once for FastAPI, and what methods call stands above them.
"""

import asyncio
import importlib.resources
import math
from collections.abc import Awaitable
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from knowledge.chat import EndpointError
from knowledge.config import Settings
from knowledge.embedding import Vectors, make_embedder
from knowledge.engine import Engine
from knowledge.ingest import sources
from knowledge.ingest.routes import ROUTES
from knowledge.operators import Chunk, Question, Store, Stored, Summarise
from knowledge.pipeline import Chain
from knowledge.queue import Priority
from knowledge.resources import APPLICATION, EMBEDDER, ServeEmbedder, connect
from knowledge.stall import StallMeter
from knowledge.types import (
    DeadlineExceeded,
    KnowledgeError,
    Layer,
    QueueFull,
    Scope,
    ShuttingDown,
    SourceError,
    StoreError,
    UnknownTrigger,
)
from knowledge.wire import (
    AskReply,
    AskRequest,
    CountReply,
    IngestReply,
    IngestRequest,
    PlanReply,
    PlanRequest,
    Problem,
    SessionReply,
    ask_reply,
    plan_reply,
    session_reply,
)


class WrongTenant(KnowledgeError):
    """A request names two tenants."""


# The default routes come with the sources.
assert sources is not None
SERVICE = "KnowledgeService"
_DEFAULT_TENANT = "default"
_MOST_SESSION = 200
# The queue refuses what is too much; Serve itself must let requests through to it.
_ROOM = 2000
_HEALTH_TIMEOUT_S = 5.0
_STATUSES: dict[type[Exception], int] = {
    WrongTenant: 400,
    QueueFull: 429,
    DeadlineExceeded: 504,
    ShuttingDown: 503,
    StoreError: 503,
    EndpointError: 502,
    UnknownTrigger: 400,
    SourceError: 400,
}
# Everything a page may load comes from here.
_SECURITY = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
Reply = TypeVar("Reply")
Tenant = Annotated[
    str, Header(alias="X-Tenant", min_length=1, max_length=200, pattern=r"^[\w.:@-]+$")
]


@serve.deployment(name=EMBEDDER, max_ongoing_requests=_ROOM, ray_actor_options={"num_cpus": 0})
class EmbedderDeployment:
    """Embeds; requests that come close together go through the model as one batch.

    Args:
        name: of the embedder.
        batch: requests taken together at most.
        wait_ms: how long the first of a batch waits for more.
    """

    def __init__(self, name: str, batch: int, wait_ms: float) -> None:
        self._embedder = make_embedder(name)
        self._embedder.embed(["The first batch takes longer than all others."])
        self.embed.set_max_batch_size(batch)
        self.embed.set_batch_wait_timeout_s(wait_ms / 1000.0)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def embed(self, requests: list[list[str]]) -> list[Vectors]:
        """Return the vectors of each request's texts."""
        texts = [text for request in requests for text in request]
        # In a thread: health checks and new requests are heard meanwhile.
        vectors = await asyncio.to_thread(self._embedder.embed, texts)
        ends = np.cumsum([len(request) for request in requests])
        return np.split(vectors, ends[:-1].tolist())


app = FastAPI(
    title="Knowledge service",
    description="Answers questions in the words of what it has read, and says from where.",
    version="1",
    # Their pages load scripts from elsewhere; /docs is one of our own.
    docs_url=None,
    redoc_url=None,
)
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 422, 429, 500, 502, 503, 504)
}


@app.exception_handler(KnowledgeError)
async def _knowledge_error(request: Request, error: KnowledgeError) -> Response:
    statuses = (_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)
    headers = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return _problem(next(statuses, 500), error, headers)


@app.exception_handler(RayError)
async def _ray_error(request: Request, error: RayError) -> Response:
    cause = getattr(error, "cause", None)
    if isinstance(cause, KnowledgeError):
        return await _knowledge_error(request, cause)
    return _problem(503, error, {"Retry-After": "1"})


@app.exception_handler(Exception)
async def _other_error(request: Request, error: Exception) -> Response:
    return _problem(500, error, {})


def _problem(status: int, error: Exception, headers: dict[str, str]) -> Response:
    told = Problem(error=type(error).__name__, message=str(error) or type(error).__name__)
    return JSONResponse(told.model_dump(), status, headers)


def _scope(asked: PlanRequest, tenant: str) -> Scope:
    return Scope(_tenant(asked.tenant, tenant), asked.session_id)


def _tenant(in_body: str | None, in_header: str) -> str:
    if in_body is not None and in_header not in (_DEFAULT_TENANT, in_body):
        raise WrongTenant(f"the header says tenant {in_header!r}, the body {in_body!r}")
    return in_body or in_header


def _layer(layer: Layer) -> Literal["contextual", "long-term"]:
    return "long-term" if layer is Layer.LONG_TERM else "contextual"


async def _soon(reply: Awaitable[Reply], who: str) -> Reply:
    try:
        return await asyncio.wait_for(reply, _HEALTH_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise StoreError(f"{who} does not reply within {_HEALTH_TIMEOUT_S:g} s") from None


@serve.deployment(name=SERVICE, max_ongoing_requests=_ROOM, ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class KnowledgeService:
    """What HTTP asks for, given to the engine and the memory.

    Args:
        settings: of the service.
        embedder: the embedder's deployment.
    """

    def __init__(self, settings: Settings, embedder: DeploymentHandle) -> None:
        self._settings = settings
        self._memory, self._resources = connect(settings, ServeEmbedder(embedder))
        self._engine = Engine(self._resources, settings)
        self._meter = StallMeter()
        self._metering: asyncio.Task[None] | None = None
        page = importlib.resources.files("knowledge") / "page"
        self._page = {file.name: file.read_text() for file in page.iterdir() if file.is_file()}

    async def __del__(self) -> None:
        """Serve calls this when a replica goes and has no more requests."""
        await self._engine.close()

    @app.post("/ask", responses=_PROBLEMS)
    async def ask(self, asked: AskRequest, x_tenant: Tenant = _DEFAULT_TENANT) -> AskReply:
        """Answer a question."""
        question = Question(asked.question, _scope(asked, x_tenant))
        if asked.query_id is not None:
            question = Question(asked.question, question.scope, asked.query_id)
        priority = Priority[asked.priority.upper()]
        # An asker who hangs up cancels this, and with it the query.
        answer = await self._engine.submit(question, priority, asked.deadline_ms)
        return ask_reply(answer, asked.explain)

    @app.post("/plan", responses=_PROBLEMS)
    async def plan(self, asked: PlanRequest, x_tenant: Tenant = _DEFAULT_TENANT) -> PlanReply:
        """Show how a question would be answered."""
        return plan_reply(await self._engine.plan(asked.question, _scope(asked, x_tenant)))

    @app.post("/ingest", responses=_PROBLEMS)
    async def ingest(self, asked: IngestRequest, x_tenant: Tenant = _DEFAULT_TENANT) -> IngestReply:
        """Take in documents; the same again changes nothing. They can be found when this returns.

        For much of it there is `knowledge ingest`, which works on all of the cluster.
        """
        if asked.trigger not in self._settings.http_triggers:
            known = ", ".join(self._settings.http_triggers) or "none"
            raise UnknownTrigger(f"trigger {asked.trigger!r} is not open to HTTP; open: {known}")
        route = ROUTES.resolve(asked.trigger, asked.source)
        source = route.open(asked.options)
        store = Store(_layer(route.layer), _tenant(asked.tenant, x_tenant))
        chain = Chain([Chunk(), Summarise(), store], self._resources)
        stored: list[Stored] = []
        for shard in await asyncio.to_thread(source.shards):
            for document in source.read(shard):
                stored += await chain.run(document)
        written = sum(one.pieces > 0 for one in stored)
        pieces = sum(one.pieces for one in stored)
        return IngestReply(documents=len(stored), written=written, pieces=pieces)

    @app.get("/sessions/{session_id}", responses=_PROBLEMS)
    async def session(self, session_id: str, x_tenant: Tenant = _DEFAULT_TENANT) -> SessionReply:
        """Return a session's short-term memory, newest first."""
        records = await self._memory.recent(Scope(x_tenant, session_id), _MOST_SESSION)
        return session_reply(session_id, records)

    @app.delete("/sessions/{session_id}", responses=_PROBLEMS)
    async def forget(self, session_id: str, x_tenant: Tenant = _DEFAULT_TENANT) -> CountReply:
        """Remove all that a session left for good, in short-term and in long-term memory."""
        return CountReply(count=await self._memory.forget(Scope(x_tenant, session_id)))

    @app.post("/sessions/{session_id}/flush", responses=_PROBLEMS)
    async def flush(self, session_id: str, x_tenant: Tenant = _DEFAULT_TENANT) -> CountReply:
        """Move a session's short-term memory to the tenant's long-term memory."""
        return CountReply(count=await self._memory.flush(Scope(x_tenant, session_id)))

    @app.get("/stats", responses=_PROBLEMS)
    async def stats(self, x_tenant: Tenant = _DEFAULT_TENANT) -> dict[str, Any]:
        """Return what this replica's queue does and what the tenant's memory holds.

        `longest_stall_ms` is how long the replica's event loop stood still, since it was last asked.
        """
        if self._metering is None:
            self._metering = asyncio.ensure_future(self._meter.run())
        return {
            "queue": vars(self._engine.stats()),
            "memory": await self._memory.stats(x_tenant),
            "longest_stall_ms": round(self._meter.take_ms(), 3),
        }

    @app.get("/healthz", responses=_PROBLEMS)
    async def healthz(self) -> dict[str, str]:
        """Say whether questions can be answered: the memory and the embedder reply."""
        await _soon(self._memory.stats(_DEFAULT_TENANT), "the memory")
        return {"status": "ok"}

    @app.get("/", include_in_schema=False)
    async def home(self) -> Response:
        """Return the page to ask on."""
        return self._file("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs(self) -> Response:
        """Return the page that shows the API."""
        return self._file("api.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def page(self, name: str) -> Response:
        """Return a file of the pages."""
        return self._file(name)

    def _file(self, name: str) -> Response:
        media_type = _MEDIA_TYPES.get(name.rsplit(".", 1)[-1])
        if name not in self._page or media_type is None:
            return _problem(404, KnowledgeError(f"there is no {name}"), {})
        return Response(self._page[name], media_type=media_type, headers=_SECURITY)


def application(settings: Settings) -> serve.Application:
    """Return the application, to be run by `serve.run` or deployed from a configuration."""
    # What Serve's decorators return has no types.
    embedders: Any = EmbedderDeployment
    services: Any = KnowledgeService
    embedder = embedders.options(num_replicas=settings.embedder_replicas).bind(
        settings.embedder, settings.embed_batch, settings.embed_wait_ms
    )
    return services.options(
        num_replicas=settings.service_replicas,
        graceful_shutdown_timeout_s=settings.drain_s + 5.0,
    ).bind(settings, embedder)


def start(settings: Settings) -> None:
    """Run the application on the Ray that this process is connected to; return when it answers."""
    serve.start(
        proxy_location="HeadOnly", http_options={"host": settings.host, "port": settings.port}
    )
    serve.run(application(settings), name=APPLICATION, route_prefix="/")


def stop() -> None:
    """Drain the application and end Serve; its memory stays."""
    serve.delete(APPLICATION)
    serve.shutdown()
