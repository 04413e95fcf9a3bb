"""A client of endpoints that speak OpenAI's chat protocol, for the generator and the planner.

The key is read from an environment variable at each request and appears nowhere else: not in the
settings, not in an error, not in a representation.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import httpx

from knowledge.types import KnowledgeError

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0
_SHOWN_LETTERS = 200


class EndpointError(KnowledgeError):
    """The endpoint could not be reached, refused, took too long, or answered what is no answer."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where a model answers.

    Args:
        base_url: what comes before `/chat/completions`, such as "http://localhost:8080/v1".
        model: as the endpoint names it.
        key_variable: the environment variable that holds the key; unset: no key is sent.
        timeout_s: for a reply with all its attempts, in seconds.
        retries: further attempts after an error that may pass.
        max_tokens: of a reply.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 30.0
    retries: int = 2
    max_tokens: int = 512


class ChatClient:
    """Asks an endpoint.

    Args:
        endpoint: which.
        environ: where the key is looked up.
    """

    def __init__(self, endpoint: Endpoint, environ: Mapping[str, str] = os.environ) -> None:
        self._endpoint = endpoint
        self._environ = environ
        self._client: httpx.AsyncClient | None = None

    async def complete(self, system: str, user: str) -> str:
        """Return the model's reply to one message.

        Args:
            system: how to behave; empty for nothing.
            user: the message, sent as it is.

        Raises:
            EndpointError: there is no reply; the message says why.
        """
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        body = {
            "model": self._endpoint.model,
            "messages": messages,
            "max_tokens": self._endpoint.max_tokens,
            "temperature": 0,
        }
        try:
            return await asyncio.wait_for(self._attempts(body), self._endpoint.timeout_s)
        except asyncio.TimeoutError:
            raise EndpointError(
                f"{self._endpoint.base_url} did not answer within {self._endpoint.timeout_s:g} s"
            ) from None

    async def close(self) -> None:
        """Close the connections; a later `complete` opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _attempts(self, body: dict[str, Any]) -> str:
        pause_s = _FIRST_PAUSE_S
        for attempt in range(self._endpoint.retries + 1):
            if attempt:
                await asyncio.sleep(pause_s)
            try:
                reply = await self._post(body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                pause_s *= 2
                continue
            if reply.status_code == 200:
                return _content(reply)
            problem = f"status {reply.status_code}: {reply.text[:_SHOWN_LETTERS]}"
            if reply.status_code not in _PASSING:
                break
            pause_s = _asked_pause_s(reply) or pause_s * 2
        raise EndpointError(f"{self._endpoint.base_url}: {problem}")

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=self._endpoint.timeout_s)
        key = self._environ.get(self._endpoint.key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"{self._endpoint.base_url.rstrip('/')}/chat/completions"
        return await self._client.post(url, json=body, headers=headers)


def _asked_pause_s(reply: httpx.Response) -> float | None:
    try:
        return min(_LONGEST_PAUSE_S, max(0.0, float(reply.headers["Retry-After"])))
    except (KeyError, ValueError):
        return None


def _content(reply: httpx.Response) -> str:
    try:
        choice = reply.json()["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise EndpointError(
            f"the endpoint's reply is no chat completion: {reply.text[:_SHOWN_LETTERS]}"
        ) from None
    if not isinstance(content, str) or not content.strip():
        raise EndpointError("the endpoint's reply is empty")
    return content.strip()
