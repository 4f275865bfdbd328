"""What the Jupyter server's process does for the API: who is asking, may they, and on to the worker.

Everything is answered by the worker except `status` and `identity`. Bodies are streamed in both directions and
never held. Imports nothing heavy.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl, quote, urlencode

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web, websocket
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, parse_response_start_line
from tornado.queues import Queue
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from fleet_rlm_jupyter.domain.api import API, API_VERSION, KEY_HEADER, REQUEST_ID, SOCKET_CLOSED, USER_HEADER
from fleet_rlm_jupyter.server.supervisor import Address, Supervisor, WorkerUnavailable

MAX_BODY_BYTES = 4 * 1024**3
"""Of an upload; the worker refuses what its settings do not allow."""

_SENT_ON = ("Accept", "Content-Type", "Content-Length", "Content-Encoding", "Range", "If-Match", "If-None-Match")
_SENT_BACK = (
    "Content-Type", "Content-Length", "Content-Disposition", "Cache-Control", "ETag", "Location", "Retry-After",
    "Upload-Offset",
)  # fmt: skip

_OURS = {"token", "_xsrf", "no_track_activity"}

_CODES = {
    400: "bad_request",
    401: "forbidden",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
}
_HINTS = {
    "forbidden": "pass the server's token, or log in; with a cookie send X-XSRFToken too",
    "not_found": f"GET {API}/openapi.json lists the routes",
}

LOCAL_USER = "local"


class _Problems:
    """Errors as problem documents {code, message, hint}; never a traceback, never an HTML page."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        handler = cast("JupyterHandler", self)
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, WorkerUnavailable):
            problem = error.problem
        else:
            code = _CODES.get(status_code, "internal" if status_code >= 500 else "bad_request")
            problem = {"code": code, "message": _sentence(status_code, error), "hint": _HINTS.get(code, "")}
        handler.set_header("Content-Type", "application/problem+json")
        if isinstance(handler, APIHandler):
            handler.finish(json.dumps(problem), set_content_type="application/problem+json")
        else:
            handler.finish(json.dumps(problem))


class FleetHandler(_Problems, APIHandler):
    """A route of ours in the Jupyter server: identity, XSRF and origin as everywhere in Jupyter."""

    auth_resource = "fleet"

    async def prepare(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.set_header(REQUEST_ID, self.request_id)
        await super().prepare()

    @property
    def content_security_policy(self) -> str:
        # What a run wrote may be HTML: in no case does it run with the rights of the page.
        return f"{super().content_security_policy}; sandbox"

    @property
    def request_id(self) -> str:
        if not hasattr(self, "_request_id"):
            given = self.request.headers.get(REQUEST_ID, "")
            is_fine = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
            self._request_id = given if is_fine else secrets.token_hex(8)
        return self._request_id

    @property
    def supervisor(self) -> Supervisor:
        return self.settings["fleet_supervisor"]


class StatusHandler(FleetHandler):
    """Who is here, and how the worker is: what a kernel asks before it speaks to this server."""

    @web.authenticated
    @authorized
    def get(self) -> None:
        supervisor = self.supervisor
        worker = {"state": supervisor.state, "running": supervisor.running, "problem": supervisor.problem}
        self.finish(
            json.dumps(
                {
                    "version": self.settings["fleet_version"],
                    "api": API_VERSION,
                    "user": owner_of(self),
                    "where": "jupyter-server",
                    "worker": worker,
                }
            )
        )


class IdentityHandler(FleetHandler):
    """Who the server thinks is asking, and whose sessions they therefore see."""

    @web.authenticated
    @authorized
    def get(self) -> None:
        user = self.current_user
        self.finish(
            json.dumps(
                {
                    "user": owner_of(self),
                    "username": user.username,
                    "name": user.name or user.username,
                    "provider": type(self.identity_provider).__name__,
                }
            )
        )


@web.stream_request_body
class ProxyHandler(FleetHandler):
    """Every other route: once admitted, a request goes to the worker as it is, with the user's name on it."""

    async def prepare(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        await super().prepare()
        # A streamed body arrives before the method is called: nothing of it may go anywhere before this.
        if self.request.method != "OPTIONS":
            if self.current_user is None:
                raise web.HTTPError(403)
            action = "read" if self.request.method in ("GET", "HEAD") else "write"
            if not await ensure_async(
                self.authorizer.is_authorized(self, self.current_user, action, self.auth_resource)
            ):
                raise web.HTTPError(403)
            cast("Any", self.request.connection).set_max_body_size(MAX_BODY_BYTES)
            self._answer = Answer(self, await self.supervisor.address())

    async def data_received(self, chunk: bytes) -> None:
        if hasattr(self, "_answer"):
            await self._answer.feed(chunk)

    def on_connection_close(self) -> None:
        if hasattr(self, "_answer"):
            self._answer.drop()

    @web.authenticated
    @authorized
    async def get(self, path: str) -> None:
        await self._answer.give()

    @web.authenticated
    @authorized
    async def post(self, path: str) -> None:
        await self._answer.give()

    @web.authenticated
    @authorized
    async def put(self, path: str) -> None:
        await self._answer.give()

    @web.authenticated
    @authorized
    async def patch(self, path: str) -> None:
        await self._answer.give()

    @web.authenticated
    @authorized
    async def delete(self, path: str) -> None:
        await self._answer.give()


class Answer:
    """One request on its way to the worker and its answer on the way back, piece by piece in both directions."""

    def __init__(self, handler: FleetHandler, address: Address) -> None:
        self._handler = handler
        self._pieces: Queue[bytes | None] = Queue(1)
        self._may_answer = asyncio.Event()
        self._status = 502
        self._headers = HTTPHeaders()
        self._is_begun = False
        self._fetch = asyncio.ensure_future(self._ask(address))

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

    async def _ask(self, address: Address) -> None:
        request, client = (
            self._handler.request,
            SimpleAsyncHTTPClient(force_instance=True, max_body_size=MAX_BODY_BYTES),
        )
        has_body = request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers
        asked = HTTPRequest(
            address.url(_path(request)),
            method=request.method or "GET",
            headers=_outgoing(self._handler, address),
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
            await client.fetch(asked, raise_error=False)
        except (HTTPClientError, OSError) as err:
            raise _gone() from err
        finally:
            client.close()
        if self._status == 599 or not self._headers:
            raise _gone()

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


class SocketHandler(  # pyright: ignore[reportIncompatibleMethodOverride]
    _Problems, WebSocketMixin, websocket.WebSocketHandler, JupyterHandler
):
    """The socket: admitted here, spoken with the worker. A slow reader slows only its own reading."""

    auth_resource = "fleet"

    # The mixin reads these as milliseconds, tornado as seconds; only tornado's pings are on (see `open`).
    @property
    def ping_interval(self) -> float:
        return 30.0

    @property
    def ping_timeout(self) -> float:
        return 30.0

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        if not await ensure_async(
            self.authorizer.is_authorized(self, self.current_user, "execute", self.auth_resource)
        ):
            raise web.HTTPError(403)
        supervisor: Supervisor = self.settings["fleet_supervisor"]
        address = await supervisor.address()
        asked = HTTPRequest(address.url(f"{API}/ws", "ws"), headers=_outgoing(self, address), connect_timeout=10)
        try:
            self._worker = await websocket.websocket_connect(asked, max_message_size=64 * 1024**2)
        except (HTTPClientError, OSError) as err:
            raise _gone() from err
        await cast("Any", super().get(*args, **kwargs))

    def open(self, *args: Any, **kwargs: Any) -> None:
        # Not the mixin's: it would send its own pings beside tornado's.
        self._pump = asyncio.ensure_future(self._pass_on())

    async def on_message(self, message: str | bytes) -> None:
        with suppress(websocket.WebSocketClosedError):
            await self._worker.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        self._worker.close()
        if hasattr(self, "_pump"):
            self._pump.cancel()

    async def _pass_on(self) -> None:
        with suppress(websocket.WebSocketClosedError):
            while (message := await self._worker.read_message()) is not None:
                await self.write_message(message, binary=isinstance(message, bytes))
            if self._worker.close_code is not None:
                self.close(self._worker.close_code, self._worker.close_reason)
                return
            # The worker died: whoever follows asks again with `since` once it is back.
            await self.write_message(json.dumps({"type": "error", **_gone().problem}))
            self.close(SOCKET_CLOSED["restarting"], "the worker is restarted")


def owner_of(handler: JupyterHandler) -> str:
    """Whose sessions this request sees.

    Jupyter's own providers know one person, by a token or a password, and give each browser a random name: they are
    all one owner. A provider that knows people (JupyterHub, OIDC, one of yours) gives the name.
    """
    if type(handler.identity_provider).__module__.startswith("jupyter_server."):
        return LOCAL_USER
    return handler.current_user.username


def _outgoing(handler: JupyterHandler, address: Address) -> HTTPHeaders:
    """The headers for the worker: a few of the caller's, and who they are, which only we may say."""
    headers = HTTPHeaders()
    for name in _SENT_ON:
        if name in handler.request.headers:
            headers[name] = handler.request.headers[name]
    headers[KEY_HEADER] = address.key
    headers[USER_HEADER] = quote(owner_of(handler), safe="")
    if isinstance(handler, FleetHandler):
        headers[REQUEST_ID] = handler.request_id
    return headers


def _path(request: HTTPServerRequest) -> str:
    """Path and query for the worker, without what was meant for the Jupyter server: its token above all."""
    path = request.path[request.path.index(API) :]
    query = [pair for pair in parse_qsl(request.query, keep_blank_values=True) if pair[0] not in _OURS]
    return f"{path}?{urlencode(query)}" if query else path


def _gone() -> WorkerUnavailable:
    problem = {
        "code": "worker_restarted",
        "message": "the worker process ended and is started anew",
        "hint": "ask again; runs that were under way are marked failed",
    }
    return WorkerUnavailable(problem)


def _sentence(status: int, error: object) -> str:
    if isinstance(error, web.HTTPError):
        if error.log_message and status < 500:
            return error.log_message.splitlines()[0][:200]
        return error.reason or HTTPStatus(status).phrase.lower()
    return "something went wrong in the server; its log says what"


async def _awaited(future: Any) -> None:
    await future
