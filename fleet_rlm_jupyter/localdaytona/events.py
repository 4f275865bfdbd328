"""The Socket.IO endpoint that tells the SDK of state changes, so that it need not poll."""

import hmac

import socketio
from aiohttp import web


class EventSocket:
    """Broadcasts to every client that connected with the key."""

    def __init__(self, app: web.Application, path: str, key: str) -> None:
        self._server = socketio.AsyncServer(async_mode="aiohttp", cors_allowed_origins=[], logger=False)
        self._key = key
        self._server.on("connect", self._connect)
        self._server.attach(app, socketio_path=path)

    async def tell(self, event: str, data: dict[str, object]) -> None:
        await self._server.emit(event, data)

    async def close(self) -> None:
        await self._server.shutdown()

    async def _connect(self, identifier: str, environ: dict[str, object], auth: object = None) -> bool:
        token = auth.get("token") if isinstance(auth, dict) else None
        return isinstance(token, str) and hmac.compare_digest(token.encode(), self._key.encode())
