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

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web, websocket
from tornado.httpclient import HTTPClientError, HTTPRequest

from fleet_rlm_jupyter.domain.api import API, API_VERSION, REQUEST_ID, SOCKET_CLOSED
from fleet_rlm_jupyter.server.bodies import break_off
from fleet_rlm_jupyter.server.passing import MAX_BODY_BYTES, Answer, gone, outgoing, owner_of
from fleet_rlm_jupyter.server.supervisor import Supervisor, WorkerUnavailable

HEARD_OUT_BYTES = 16 * 1024**2
"""A request that is refused before its body has come is heard out up to this, else the line is closed on it."""

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

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header(REQUEST_ID, self.request_id)  # here, for an error begins its answer anew

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

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        length = self.request.headers.get("Content-Length", "")
        self._still_to_come = int(length) if length.isdecimal() else 0
        self._refusal: tuple[int, dict[str, Any]] | None = None

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
            address = await self.supervisor.address()
            headers = outgoing(self, address)
            headers[REQUEST_ID] = self.request_id
            self._answer = Answer(self, address, headers)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if self._headers_written:
            break_off(self)
            return
        # An answer before the body has come ends the connection under whoever still sends it: the Hub's proxy then
        # says 503, and no browser learns why it was refused. A small body is heard first, and dropped.
        if 0 < self._still_to_come <= HEARD_OUT_BYTES:
            self._refusal = status_code, kwargs
        else:
            super().send_error(status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if self._refusal is not None:
            self.set_header("Connection", "close")  # tornado closes it where an answer is begun before the body's end
        super().write_error(status_code, **kwargs)

    async def data_received(self, chunk: bytes) -> None:
        self._still_to_come -= len(chunk)
        if hasattr(self, "_answer"):
            await self._answer.feed(chunk)
        elif self._refusal is not None and self._still_to_come <= 0:
            super().send_error(self._refusal[0], **self._refusal[1])

    def on_connection_close(self) -> None:
        super().on_connection_close()
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


PING_SECONDS = 30.0
"""How often a socket is asked whether somebody is there, and how long it may take to say so, where the server's
`websocket_ping_interval` and `websocket_ping_timeout` say nothing."""


class SocketHandler(  # pyright: ignore[reportIncompatibleMethodOverride]
    _Problems, WebSocketMixin, websocket.WebSocketHandler, JupyterHandler
):
    """The socket: admitted here, spoken with the worker. A slow reader slows only its own reading."""

    auth_resource = "fleet"

    # The mixin reads these as milliseconds, tornado as seconds; only tornado's pings are on (see `open`).
    @property
    def ping_interval(self) -> float:
        return self.settings.get("websocket_ping_interval") or PING_SECONDS

    @property
    def ping_timeout(self) -> float:
        return self.settings.get("websocket_ping_timeout") or self.ping_interval

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        if not await ensure_async(
            self.authorizer.is_authorized(self, self.current_user, "execute", self.auth_resource)
        ):
            raise web.HTTPError(403)
        supervisor: Supervisor = self.settings["fleet_supervisor"]
        address = await supervisor.address()
        asked = HTTPRequest(address.url(f"{API}/ws", "ws"), headers=outgoing(self, address), connect_timeout=10)
        try:
            self._worker = await websocket.websocket_connect(asked, max_message_size=64 * 1024**2)
        except (HTTPClientError, OSError) as err:
            raise gone() from err
        await cast("Any", super().get(*args, **kwargs))

    def open(self, *args: Any, **kwargs: Any) -> None:
        # Not the mixin's: it would send its own pings beside tornado's.
        self.set_nodelay(True)
        cast("Any", self._worker.protocol).set_nodelay(True)
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
            await self.write_message(json.dumps({"type": "error", **gone().problem}))
            self.close(SOCKET_CLOSED["restarting"], "the worker is restarted")


def _sentence(status: int, error: object) -> str:
    if isinstance(error, web.HTTPError):
        if error.log_message and status < 500:
            return error.log_message.splitlines()[0][:200]
        return error.reason or HTTPStatus(status).phrase.lower()
    return "something went wrong in the server; its log says what"
