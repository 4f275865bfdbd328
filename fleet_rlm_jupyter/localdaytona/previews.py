"""Preview URLs: a way from outside to what listens on a port inside a sandbox."""

import hashlib
import hmac
import secrets

import aiohttp
from aiohttp import web

from fleet_rlm_jupyter.localdaytona.wire import ApiError

TOKEN_HEADER, TOKEN_QUERY = "x-daytona-preview-token", "DAYTONA_SANDBOX_AUTH_KEY"
_NOT_CARRIED = {
    "connection",
    "content-encoding",
    "content-length",
    "host",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
}


class PreviewTokens:
    """One token per sandbox and port; with the server they lose their worth."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def of(self, sandbox: str, port: int) -> str:
        return hmac.new(self._secret, f"{sandbox}:{port}".encode(), hashlib.sha256).hexdigest()

    def fit(self, sandbox: str, port: str, request: web.Request) -> bool:
        given = request.headers.get(TOKEN_HEADER) or request.query.get(TOKEN_QUERY) or ""
        return port.isdigit() and hmac.compare_digest(given.encode(), self.of(sandbox, int(port)).encode())


class PortRoutes:
    """The inner half, in the sandbox: passes a request on to 127.0.0.1."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def add_routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/preview/{port:[0-9]+}/{tail:.*}", self._carry)

    async def _carry(self, request: web.Request) -> web.Response:
        port, tail = request.match_info["port"], request.rel_url.raw_path.split("/", 3)[3]
        query = {name: value for name, value in request.query.items() if name != TOKEN_QUERY}
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _NOT_CARRIED and name.lower() != TOKEN_HEADER
        }
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True)
        url = f"http://127.0.0.1:{port}/{tail}"
        try:
            async with self._session.request(
                request.method, url, params=query, headers=headers, data=await request.read(), allow_redirects=False
            ) as answer:
                carried = {k: v for k, v in answer.headers.items() if k.lower() not in _NOT_CARRIED}
                return web.Response(status=answer.status, body=await answer.read(), headers=carried)
        except (aiohttp.ClientError, OSError) as err:
            raise ApiError(502, "BAD_GATEWAY", f"nothing answers on port {port} of the sandbox: {err}") from err
