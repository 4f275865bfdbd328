"""The door of the server: the port where it listens, which a fault may shut for a while."""

import asyncio
import logging
import socket

from aiohttp import web

from fleet_rlm_jupyter.localdaytona.wire import HEADER_BYTES, LINE_BYTES

_FAREWELL_SECONDS = 10


class Door:
    """Serves `site` on a loopback port. Whoever opens it closes it."""

    def __init__(self, port: int) -> None:
        """Bind the port, or any free one for 0; raises OSError."""
        self._listener = _bind(port)
        self.port: int = self._listener.getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, site: web.Application) -> None:
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a traceback for each malformed request
        self._runner = web.AppRunner(
            site,
            access_log=None,
            shutdown_timeout=0.2,
            read_bufsize=1 << 20,
            max_line_size=LINE_BYTES,
            max_field_size=HEADER_BYTES,
        )
        await self._runner.setup()
        self._site = web.SockSite(self._runner, self._listener)
        await self._site.start()

    def shut_for(self, seconds: float) -> None:
        """Cut every connection soon after this, refuse new ones, and open again on the same port."""
        self._tasks.add(task := asyncio.create_task(self._shut_for(seconds)))
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.wait_for(self._runner.cleanup(), _FAREWELL_SECONDS)

    async def _shut_for(self, seconds: float) -> None:
        await asyncio.sleep(0.05)  # so that who asked for it is answered
        await self._site.stop()
        server = self._runner.server
        for connection in server.connections if server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(seconds)
        self._listener = _bind(self.port)
        self._site = web.SockSite(self._runner, self._listener)
        await self._site.start()


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(256)
    except OSError:
        listener.close()
        raise
    return listener
