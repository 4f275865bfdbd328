"""One request on its way from the Jupyter server to the worker, and its answer on the way back.

Bodies are streamed in both directions and never held. Imports nothing heavy.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast
from urllib.parse import parse_qsl, quote, urlencode

from jupyter_server.auth.identity import LegacyIdentityProvider
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, parse_response_start_line
from tornado.queues import Queue
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from fleet_rlm_jupyter.domain.api import API, KEY_HEADER, USER_HEADER
from fleet_rlm_jupyter.server.supervisor import Address, WorkerUnavailable

MAX_BODY_BYTES = 4 * 1024**3
"""Of an upload; the worker refuses what its settings do not allow."""

LOCAL_USER = "local"

_SENT_ON = ("Accept", "Content-Type", "Content-Length", "Content-Encoding", "Range", "If-Match", "If-None-Match")
_SENT_BACK = (
    "Content-Type", "Content-Length", "Content-Disposition", "Cache-Control", "ETag", "Location", "Retry-After",
    "Upload-Offset",
)  # fmt: skip

_OURS = {"token", "_xsrf", "no_track_activity"}


class Answer:
    """One request on its way to the worker and its answer on the way back, piece by piece in both directions."""

    def __init__(self, handler: APIHandler, address: Address, headers: HTTPHeaders) -> None:
        self._handler = handler
        self._pieces: Queue[bytes | None] = Queue(1)
        self._may_answer = asyncio.Event()
        self._status = 502
        self._headers = HTTPHeaders()
        self._is_begun = False
        self._fetch = asyncio.ensure_future(self._ask(address, headers))

    async def feed(self, chunk: bytes) -> None:
        """A piece of the body; dropped when the worker has answered already."""
        await self._put(chunk)

    async def give(self) -> None:
        """The body is complete: pass the answer on."""
        await self._put(None)
        self._may_answer.set()
        await self._fetch
        if not self._is_begun:
            self._begin()
        kind = self._headers.get("Content-Type", "application/json")
        with suppress(web.HTTPError):
            self._handler.finish(set_content_type=kind)

    def drop(self) -> None:
        """Whoever asked has gone."""
        self._fetch.cancel()

    async def _put(self, piece: bytes | None) -> None:
        putting = asyncio.ensure_future(_awaited(self._pieces.put(piece)))
        await asyncio.wait({putting, self._fetch}, return_when=asyncio.FIRST_COMPLETED)
        putting.cancel()

    async def _ask(self, address: Address, headers: HTTPHeaders) -> None:
        request, client = (
            self._handler.request,
            SimpleAsyncHTTPClient(force_instance=True, max_body_size=MAX_BODY_BYTES),
        )
        has_body = request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers
        asked = HTTPRequest(
            address.url(_path(request)),
            method=request.method or "GET",
            headers=headers,
            body_producer=cast("Any", self._produce) if has_body else None,
            body=None if has_body or request.method in ("GET", "DELETE") else b"",
            header_callback=self._header,
            streaming_callback=self._piece,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            decompress_response=False,
            request_timeout=0,
        )
        try:
            answer = await client.fetch(asked, raise_error=False)
        except (HTTPClientError, OSError) as err:
            raise gone() from err
        finally:
            client.close()
        if answer.code == 599 or not self._headers:  # also where the line broke after the headers
            raise gone()

    async def _produce(self, write: Any) -> None:
        while (piece := await self._pieces.get()) is not None:
            await write(piece)

    def _header(self, line: str) -> None:
        line = line.strip()
        if line.startswith("HTTP/"):
            self._status, self._headers = parse_response_start_line(line).code, HTTPHeaders()
        elif line:
            self._headers.parse_line(line)

    async def _piece(self, chunk: bytes) -> None:
        await self._may_answer.wait()
        if not self._is_begun:
            self._begin()
        self._handler.write(chunk)
        await self._handler.flush()

    def _begin(self) -> None:
        self._is_begun = True
        self._handler.set_status(self._status)
        self._handler.clear_header("Content-Type")
        for name in _SENT_BACK:
            if name in self._headers:
                self._handler.set_header(name, self._headers[name])


def owner_of(handler: JupyterHandler) -> str:
    """Whose sessions this request sees.

    Jupyter's own providers know one person, by a token or a password, and give each browser a random name: they are
    all one owner. A provider that knows people (JupyterHub, OIDC, one of yours) gives the name. So does a login handler
    of the time before such providers, as JupyterHub has with JUPYTERHUB_SINGLEUSER_EXTENSION=0.
    """
    provider = handler.identity_provider
    of_whom: Any = type(provider)
    if isinstance(provider, LegacyIdentityProvider):
        of_whom = cast("Any", provider.login_handler_class).get_user
    if of_whom.__module__.startswith("jupyter_server."):
        return LOCAL_USER
    return handler.current_user.username


def outgoing(handler: JupyterHandler, address: Address) -> HTTPHeaders:
    """The headers for the worker: a few of the caller's, and who they are, which only we may say."""
    headers = HTTPHeaders()
    for name in _SENT_ON:
        if name in handler.request.headers:
            headers[name] = handler.request.headers[name]
    headers[KEY_HEADER] = address.key
    headers[USER_HEADER] = quote(owner_of(handler), safe="")
    return headers


def gone() -> WorkerUnavailable:
    """The worker went away while it was asked."""
    problem = {
        "code": "worker_restarted",
        "message": "the worker process ended and is started anew",
        "hint": "ask again; runs that were under way are marked failed",
    }
    return WorkerUnavailable(problem)


def _path(request: HTTPServerRequest) -> str:
    """Path and query for the worker, without what was meant for the Jupyter server: its token above all."""
    path = request.path[request.path.index(API) :]
    query = [pair for pair in parse_qsl(request.query, keep_blank_values=True) if pair[0] not in _OURS]
    return f"{path}?{urlencode(query)}" if query else path


async def _awaited(future: Any) -> None:
    await future
