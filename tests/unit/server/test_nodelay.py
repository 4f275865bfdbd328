"""What a socket of ours says leaves at once, on both parts of its way."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from tornado import websocket
from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from fleet_rlm_jupyter.domain.api import KEY_HEADER, USER_HEADER
from fleet_rlm_jupyter.server.handlers import SocketHandler
from fleet_rlm_jupyter.server.worker import application
from fleet_rlm_jupyter.testing import scripted_workbench


def waits(stream: Any) -> bool:
    return not stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_neither_the_worker_nor_the_proxy_waits_for_more_to_send():
    bench = scripted_workbench([])
    seen: dict[str, bool] = {}

    class Admitted(SocketHandler):
        """Without Jupyter's own checks, which need a whole server."""

        async def prepare(self) -> None:
            pass

        def set_default_headers(self) -> None:
            pass

        def check_origin(self, origin: str | None = None) -> bool:
            return True

        async def get(self, *args: Any, **kwargs: Any) -> None:
            asked = HTTPRequest(inner, headers={KEY_HEADER: "key", USER_HEADER: "ann"})
            self._worker = await websocket.websocket_connect(asked)
            await websocket.WebSocketHandler.get(self)

        def open(self, *args: Any, **kwargs: Any) -> None:
            super().open()
            seen["proxy, to the browser"] = waits(self.ws_connection.stream)
            seen["proxy, to the worker"] = waits(self._worker.protocol.stream)

    async def talk() -> None:
        nonlocal inner
        worker = application(bench, "key")
        kind = next(rule.target for rule in worker.wildcard_router.rules if rule.target.__name__ == "WorkerSocket")

        class Seen(kind):
            def open(self, *args: Any, **kwargs: Any) -> None:
                super().open()
                seen["worker"] = waits(self.ws_connection.stream)

        worker.wildcard_router.rules[-1].target = Seen
        inner = serve(worker) + "/fleet/api/v1/ws"
        line = await websocket.websocket_connect(serve(Application([("/", Admitted)])) + "/")
        await line.write_message("{}")
        await line.read_message()
        line.close()

    inner = ""
    asyncio.run(talk())
    bench.close()
    assert seen == {"proxy, to the browser": False, "proxy, to the worker": False, "worker": False}


def serve(app: Application) -> str:
    server, sockets = HTTPServer(app), bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    return f"ws://127.0.0.1:{sockets[0].getsockname()[1]}"
