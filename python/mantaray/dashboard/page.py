"""The page of the dashboards of Ray 2.48 and 2.49, served with node ids in its profiling links.

Mantaray changes the compiled front end in memory when it is served, and leaves Ray's files as they
are. The edits fit two bundles, which are recognised by their SHA-256. All other bundles are left alone.
A link carries `ip` as before and `node_id` as well, so it also works with stock endpoints.

The changed script has an address of its own, because a browser may keep scripts for a year and must not
use this one with a stock dashboard.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_YEAR_S = 31_536_000

Middleware = Callable[[Any, Any, Any], Awaitable[Any]]


class PageError(Exception):
    """The installed front end is not one that the edits were written for."""


@dataclass(frozen=True)
class Edit:
    """One change of the script.

    Attributes:
        pattern: a regular expression for the place.
        becomes: what is put there, with the groups of the pattern.
        count: in how many places.
        why: its purpose.
    """

    pattern: str
    becomes: str
    count: int
    why: str


@dataclass(frozen=True)
class FrontEnd:
    """A compiled front end that the edits were written for.

    Attributes:
        releases: the releases of Ray that contain it, in words.
        index_sha256: of its index.html.
        script: the bundle, relative to the directory of the front end.
        script_sha256: of the bundle.
        node_id_key: what an actor's address calls the node id.
    """

    releases: str
    index_sha256: str
    script: str
    script_sha256: str
    node_id_key: str

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The changes of this bundle."""
        return (
            Edit(
                r'\{pid:(\w),ip:(\w),type:(\w)=""\}',
                r'{pid:\1,nodeId:$,ip:\2,type:\3=""}',
                3,
                "the three links take a node id",
            ),
            Edit(
                r'"&ip="\)\.concat\((\w)',
                r'"&ip=").concat(\1,$?"&node_id="+$:""',
                3,
                "and show it in their address where there is one",
            ),
            Edit(
                r"ip:null===\(\w=(\w)\.address\)",
                rf"nodeId:(\1.address||{{}}).{self.node_id_key},\g<0>",
                3,
                "the page of an actor",
            ),
            Edit(
                r"ip:null===(\w)\|\|void 0===\1\?void 0:\1\.ipAddress",
                rf"nodeId:(\1||{{}}).{self.node_id_key},\g<0>",
                3,
                "a row in the table of actors",
            ),
            Edit(r"pid:i,ip:r", r"pid:i,nodeId:a,ip:r", 3, "a worker of a node"),
            Edit(
                r"ip:null===\(\w=(\w)\.driver_info\)",
                r"nodeId:\1.driver_node_id,\g<0>",
                6,
                "the driver of a job: in the table of jobs, and on its own page",
            ),
        )


FRONT_ENDS = (
    FrontEnd(
        releases="2.48",
        index_sha256="83e16240d0df2109d6b7fffb89a56b20652c6674f9b217e4b25046fb324314a9",
        script="static/js/main.8ae11c96.js",
        script_sha256="7089d5db79ebd34378da1666854b90b5078281dc5477a19bd80fd45bc276474f",
        node_id_key="rayletId",
    ),
    FrontEnd(
        releases="2.49",
        index_sha256="2954bb6ed4166817217e3311e8bf062560d44755273b2e7a155d58eee2570593",
        script="static/js/main.b3a3eb48.js",
        script_sha256="210ef85df64ebb94134739a1a34eb9d20850a4c274fd0c0937b5c3d41ab14b1d",
        node_id_key="nodeId",
    ),
)


@dataclass(frozen=True)
class Page:
    """What is served in place of Ray's files.

    Attributes:
        index: the page.
        path: where the script is served.
        script: the bundle, with node ids.
        version: what the page appends to the script's address.
    """

    index: bytes
    path: str
    script: bytes
    version: str


def apply(edits: Sequence[Edit], text: str) -> str:
    """Return the text with every edit made.

    Raises:
        PageError: a place is missing, or there are more of them.
    """
    for edit in edits:
        text, count = re.subn(edit.pattern, edit.becomes, text)
        if count != edit.count:
            raise PageError(f"{count} places instead of {edit.count} for: {edit.why}")
    return text


def read_page(build: Path) -> Page:
    """Return the front end in a directory, edited.

    Args:
        build: where Ray's compiled front end lies.

    Raises:
        PageError: it is not one that the edits were written for.
    """
    index, index_sha256 = _read(build / "index.html")
    for front_end in FRONT_ENDS:
        if front_end.index_sha256 == index_sha256:
            return _edit(front_end, index, build)
    raise PageError(
        "index.html is not the page that the edits were written for "
        f"(SHA-256 {index_sha256[:16]}…, which is that of no known front end)"
    )


def _edit(front_end: FrontEnd, index: bytes, build: Path) -> Page:
    path = build / front_end.script
    stock, found = _read(path)
    if found != front_end.script_sha256:
        raise PageError(
            f"{path.name} is not the page that the edits were written for (expected SHA-256 "
            f"{front_end.script_sha256[:16]}…, found {found[:16]}…)"
        )
    script = apply(front_end.edits, stock.decode()).encode()
    version = hashlib.sha256(script).hexdigest()[:16]
    edited = index.replace(path.name.encode(), f"{path.name}?mantaray={version}".encode())
    return Page(edited, f"/{front_end.script}", script, version)


def _read(path: Path) -> tuple[bytes, str]:
    """Return the content of a file and its SHA-256."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PageError(f"the page cannot be read ({error})") from error
    return data, hashlib.sha256(data).hexdigest()


def serving(page: Page, original: Middleware) -> Middleware:
    """Return a middleware of the dashboard's web server that serves the page.

    Args:
        page: what is served in place of the index and, under its own address, the script.
        original: a middleware of Ray. It handles every other answer.
    """

    @functools.wraps(original)
    async def middleware(head: Any, request: Any, handler: Any) -> Any:
        if _is_script(page, request):
            from aiohttp import web

            headers = {"Cache-Control": f"max-age={_YEAR_S}"}
            return web.Response(
                body=page.script,
                content_type="text/javascript",
                charset="utf-8",
                headers=headers,
            )
        response = await original(head, request, handler)
        if request.path == "/" and response.status == 200:
            from aiohttp import web

            headers = {"Cache-Control": response.headers.get("Cache-Control", "no-cache")}
            return web.Response(
                body=page.index, content_type="text/html", charset="utf-8", headers=headers
            )
        return response

    return middleware


def _is_script(page: Page, request: Any) -> bool:
    return bool(request.path == page.path and request.query.get("mantaray") == page.version)
