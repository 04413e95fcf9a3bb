"""Answers with a whole job log, which the agent and the head send while it is read.

A request passes three servers: the head's, the job module's (a process of its own behind the head's)
and that of the agent on the job's node. This module has a handler for each. The handler leaves every
decision (which job, which node, which error) to Ray's own, and only sends the log itself. Each server
holds a few blocks of the log at most, because a slow client makes all of them wait.
"""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from mantaray.logs.pool import in_thread
from mantaray.logs.whole import WholeLog

Handler = Callable[..., Awaitable[Any]]

_LOG_ROUTE = "/api/jobs/{job_or_submission_id}/logs"
_CONTENT_TYPE = {"Content-Type": "application/json; charset=utf-8"}
# Ray's limit for the whole answer. Here it is the longest time without a byte.
_SILENCE_S = 300
_LOGGER = logging.getLogger(__name__)

# Paths of the logs that the current request in the agent has asked for.
_ASKED: ContextVar[list[str] | None] = ContextVar("mantaray_asked_logs", default=None)
# The current request to the head's job module, and its answer once that has begun.
_UNDER_WAY: ContextVar[_Relayed | None] = ContextVar("mantaray_relayed_log", default=None)


# --- The agent


def noting(original: Callable[[Any, str], str]) -> Callable[[Any, str], str]:
    """Return a method that reads a job's log, or only returns its path for `answering`.

    Args:
        original: Ray's, which returns all of it.
    """

    @functools.wraps(original)
    def get_logs(client: Any, job_id: str) -> str:
        asked = _ASKED.get()
        if asked is None:
            return original(client, job_id)
        asked.append(client.get_log_file_path(job_id))
        return ""

    return get_logs


def answering(original: Handler) -> Handler:
    """Return the agent's handler of requests for a whole log.

    Args:
        original: Ray's. Its answer is used if it is an error, or if there is no log.
    """

    @functools.wraps(original)
    async def get_job_logs(*args: Any) -> Any:
        asked: list[str] = []
        token = _ASKED.set(asked)
        try:
            answer = await original(*args)
        finally:
            _ASKED.reset(token)
        if not asked:
            return answer
        try:
            log = await in_thread(WholeLog, asked[0])
        except FileNotFoundError:
            return answer
        except Exception as error:
            return _cannot_be_sent(asked[0], error)
        try:
            # An answer that has begun cannot become an error any more.
            while await in_thread(log.check_piece):
                pass
            return await _send(args[-1], log)
        except Exception as error:
            return _cannot_be_sent(asked[0], error)
        finally:
            log.close()

    return get_job_logs


def _cannot_be_sent(path: str, error: Exception) -> Any:
    from aiohttp import web

    _LOGGER.exception(f"The log {path} cannot be sent: {error}")
    return web.Response(text=traceback.format_exc(), status=500)


async def _send(request: Any, log: WholeLog) -> Any:
    from aiohttp import web

    response = web.StreamResponse(headers=_CONTENT_TYPE)
    try:
        await response.prepare(request)
        while piece := await in_thread(log.read):
            await response.write(piece)
        await response.write_eof()
    except Exception as error:
        _break_off(request, error)
    return response


# --- The head


class _Relayed:
    """A request, and the answer to it from another server, which is None until it has begun."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.response: Any = None

    async def send(self, upstream: Any, headers: dict[str, str]) -> Any:
        """Send the answer of another server as it arrives.

        Args:
            upstream: the answer, a response of aiohttp's client.
            headers: those to send.

        Returns:
            The response, which breaks off if the other server breaks off.
        """
        from aiohttp import web

        self.response = web.StreamResponse(status=upstream.status, headers=headers)
        try:
            await self.response.prepare(self._request)
            async for piece in upstream.content.iter_any():
                await self.response.write(piece)
            await self.response.write_eof()
        except Exception as error:
            _break_off(self._request, error)
        return self.response


def passing_on(original: Handler) -> Handler:
    """Return the handler of the head's job module that passes on what the agent sends.

    Args:
        original: Ray's. Its answer is used if nothing was passed on.
    """

    @functools.wraps(original)
    async def get_job_logs(head: Any, request: Any) -> Any:
        relayed = _Relayed(request)
        token = _UNDER_WAY.set(relayed)
        try:
            answer = await original(head, request)
        finally:
            _UNDER_WAY.reset(token)
        return answer if relayed.response is None else relayed.response

    return get_job_logs


def fetching(module: ModuleType, original: Handler) -> Handler:
    """Return the method that asks an agent for a log; for `passing_on` it also sends the log.

    Args:
        module: Ray's module of the head's job API.
        original: Ray's, which returns all of it.
    """

    @functools.wraps(original)
    async def get_job_logs_internal(client: Any, job_id: str) -> Any:
        relayed = _UNDER_WAY.get()
        if relayed is None:
            return await original(client, job_id)
        headers = client._get_headers() if hasattr(client, "_get_headers") else None
        url = f"{client._agent_address}/api/job_agent/jobs/{job_id}/logs"
        async with client._session.get(url, headers=headers, timeout=_timeout()) as upstream:
            if upstream.status != 200:
                await client._raise_error(upstream)
            await relayed.send(upstream, _CONTENT_TYPE)
        return module.JobLogsResponse("")

    return get_job_logs_internal


def proxying(module: ModuleType, original: Handler) -> Handler:
    """Return the head's method that hands a request to a module of its own, piecewise for logs.

    Args:
        module: Ray's module of such handles.
        original: Ray's; it does all other requests.
    """

    @functools.wraps(original)
    async def proxy_request(handle: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if request.method != "GET" or _route_of(request) != _LOG_ROUTE:
            return await original(handle, request, *args, **kwargs)
        async with handle.http_client_session.get(
            f"http://localhost{request.path_qs}",
            data=await request.read(),
            headers=module.filter_hop_by_hop_headers(request.headers),
            allow_redirects=False,
            timeout=_timeout(),
        ) as upstream:
            headers = module.filter_hop_by_hop_headers(upstream.headers)
            return await _Relayed(request).send(upstream, headers)

    return proxy_request


def _route_of(request: Any) -> str | None:
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


def _timeout() -> Any:
    from aiohttp import ClientTimeout

    # The timer does not run while a slow client delays the transfer.
    return ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)


def _break_off(request: Any, error: Exception) -> None:
    """End an answer that cannot continue, so that the client does not take it for complete."""
    if not isinstance(error, ConnectionResetError):
        _LOGGER.warning(f"A job's log was sent in part only ({type(error).__name__}: {error})")
    if request.transport is not None:
        request.transport.abort()
