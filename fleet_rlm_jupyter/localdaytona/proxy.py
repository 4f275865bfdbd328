"""Carries toolbox requests into a sandbox: streams both ways, and leaves the key outside."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import WSMsgType, web
from yarl import URL

from fleet_rlm_jupyter.localdaytona.faults import Fault, Faults
from fleet_rlm_jupyter.localdaytona.outside import OutsideGit
from fleet_rlm_jupyter.localdaytona.sandboxes import LocalSandbox, LocalSandboxes
from fleet_rlm_jupyter.localdaytona.wire import ApiError, parse_object

_BUFFER = 1 << 20
_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse
# Not passed on: what belongs to one connection only, and what must not enter a sandbox.
_DROPPED_IN = {"authorization", "connection", "cookie", "expect", "host", "keep-alive", "transfer-encoding", "upgrade"}
_DROPPED_OUT = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


class ToolboxProxy:
    """One connection pool per running sandbox, to the socket of its toolbox."""

    def __init__(self, sandboxes: LocalSandboxes, faults: Faults, outside: OutsideGit | None) -> None:
        """`outside` fetches repositories where sandboxes have no network."""
        self._sandboxes = sandboxes
        self._outside = outside
        self._faults = faults
        self._open: set[asyncio.WriteTransport] = set()
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        sandbox = self._sandboxes.get(request.match_info["id"])
        if sandbox.state != "started":
            raise ApiError(400, "SANDBOX_NOT_STARTED", f"Sandbox is not started: its state is {sandbox.state}")
        sandbox.touch()
        sandbox.connections += 1
        tail = request.rel_url.raw_path.split("/", 3)[3]
        if request.path.startswith("/preview/"):
            tail = f"preview/{tail}"
        url = URL(f"http://sandbox/{tail}", encoded=True).with_query(request.rel_url.query)
        try:
            session = self._session(sandbox)
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._carry_socket(session, request, url)
            if self._outside and request.method == "POST" and tail == "git/clone":
                wanted = parse_object(await request.read())
                if self._outside.is_for(wanted) and not sandbox.wanted.get("networkBlockAll"):
                    return await _clone(session, self._outside, wanted)
            return await _carry(session, request, url)
        except aiohttp.ClientError as err:
            raise ApiError(502, "BAD_GATEWAY", f"the sandbox does not answer: {err}") from err
        finally:
            sandbox.connections -= 1
            sandbox.touch()

    def cut_open(self, fault: Fault) -> None:
        """Cut the WebSockets that are open now, if that is what the fault asks for."""
        if fault.name != "dropped_socket" or fault.bytes:
            return
        for transport in list(self._open):
            if fault not in self._faults.all():
                break
            transport.abort()
            self._faults.use(fault)

    async def forget(self, identifier: str) -> None:
        """Close the connections to a sandbox that stopped."""
        session = self._sessions.pop(identifier, None)
        if session is not None:
            await session.close()

    async def close(self) -> None:
        for identifier in list(self._sessions):
            await self.forget(identifier)

    def _session(self, sandbox: LocalSandbox) -> aiohttp.ClientSession:
        if sandbox.identifier not in self._sessions:
            for gone in self._sessions.keys() - {one.identifier for one in self._sandboxes.all()}:
                self._closing.add(task := asyncio.create_task(self.forget(gone)))
                task.add_done_callback(self._closing.discard)
            self._sessions[sandbox.identifier] = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._sandboxes.socket(sandbox), limit=0, keepalive_timeout=600),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
                auto_decompress=False,
                read_bufsize=_BUFFER,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._sessions[sandbox.identifier]

    async def _carry_socket(self, session: aiohttp.ClientSession, request: web.Request, url: URL) -> web.StreamResponse:
        offered = [
            part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if part.strip()
        ]
        try:
            inner = await session.ws_connect(url, protocols=offered, max_msg_size=0, autoclose=False)
        except aiohttp.WSServerHandshakeError as err:
            raise ApiError(err.status, "BAD_REQUEST", f"the sandbox refused the WebSocket: HTTP {err.status}") from err
        outer = web.WebSocketResponse(
            protocols=(inner.protocol,) if inner.protocol else (), max_msg_size=0, autoclose=False, compress=False
        )
        await outer.prepare(request)
        transport = request.transport
        if transport is None:
            await inner.close()
            return outer
        self._open.add(transport)
        ways = [
            asyncio.create_task(_pump(outer, inner, _at_once)),
            asyncio.create_task(_pump(inner, outer, self._troubles(transport))),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(transport)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await inner.close()
            await outer.close()
        return outer

    def _troubles(self, transport: asyncio.WriteTransport) -> Callable[[int], Awaitable[None]]:
        """What a message to the client meets on its way, with a fault on."""
        carried = 0

        async def meet(size: int) -> None:
            nonlocal carried
            carried += size
            if slow := self._faults.shows("slow_reader"):
                await asyncio.sleep(slow.seconds)
            cut = self._faults.shows("dropped_socket")
            if cut and carried > cut.bytes:
                self._faults.use(cut)
                transport.abort()

        return meet


async def _clone(session: aiohttp.ClientSession, outside: OutsideGit, wanted: dict[str, object]) -> web.StreamResponse:
    open_part = {name: value for name, value in wanted.items() if name not in ("username", "password")}
    query = {"wanted": json.dumps(open_part)}
    async with outside.fetched(wanted) as pieces:
        async with session.post("http://sandbox/git/clone-fetched", params=query, data=pieces) as answer:
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)


async def _carry(session: aiohttp.ClientSession, request: web.Request, url: URL) -> web.StreamResponse:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED_IN}
    body = request.content if request.body_exists else None
    if request.body_exists and request.content.is_eof():
        body = await request.read()  # which keeps what was read before
    async with session.request(request.method, url, data=body, headers=headers, allow_redirects=False) as answer:
        if answer.status == 500 and answer.content_type != "application/json":
            raise ApiError(500, "INTERNAL_SERVER_ERROR", f"the toolbox failed on {request.method} {url.path}")
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in _DROPPED_OUT:
                response.headers[name] = value
        await response.prepare(request)
        if answer.status != 204:
            async for piece in answer.content.iter_any():
                await response.write(piece)
        await response.write_eof()
        return response


async def _pump(source: _Socket, sink: _Socket, before: Callable[[int], Awaitable[None]]) -> None:
    """Pass messages on until one side closes; then close the other with the same code and reason."""
    with contextlib.suppress(ConnectionError):
        while True:
            message = await source.receive()
            if message.type is WSMsgType.BINARY:
                await before(len(message.data))
                await sink.send_bytes(message.data)
            elif message.type is WSMsgType.TEXT:
                await before(len(message.data))
                await sink.send_str(message.data)
            elif message.type is WSMsgType.CLOSE:
                await sink.close(code=message.data or 1000, message=(message.extra or "").encode())
                return
            elif message.type in (WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR):
                await sink.close(code=1001)
                return


async def _at_once(size: int) -> None:
    """Nothing goes wrong on the way into a sandbox."""
