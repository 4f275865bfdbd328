"""Stands in for the worker where only the way to it is tested: says what reached it. Starts in a moment."""

import asyncio
import json
import os
import sys

from tornado import web, websocket
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets


@web.stream_request_body
class Echo(web.RequestHandler):
    def prepare(self):
        self.size = 0

    def data_received(self, chunk):
        self.size += len(chunk)

    async def answer(self):
        if self.request.headers.get("X-Fleet-Key") != self.settings["key"]:
            raise web.HTTPError(403)
        if self.request.path.endswith("/break-off"):
            self.write(bytes(100_000))
            await self.flush()
            self.request.connection.close()
            return
        if self.request.path.endswith("/die"):
            os._exit(7)
        self.set_header("Set-Cookie", "leak=1")
        seen = {"method": self.request.method, "uri": self.request.uri, "headers": dict(self.request.headers)}
        self.finish(json.dumps({**seen, "size": self.size, "log": self.settings["log"]}))

    get = post = put = patch = delete = answer


class EchoSocket(websocket.WebSocketHandler):
    def check_origin(self, origin):
        return True

    def on_message(self, message):
        if message == "die":
            os._exit(7)
        headers = dict(self.request.headers) if message == "headers" else {}
        self.write_message(json.dumps({"said": message, "headers": headers}))


async def serve() -> None:
    given = json.loads(sys.stdin.readline())
    told = {"key": given["key"], "log": given["log"]}
    server = HTTPServer(web.Application([(".*/ws", EchoSocket), (".*", Echo)], **told), max_body_size=4 * 1024**3)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(json.dumps({"port": sockets[0].getsockname()[1]}), flush=True)
    print(json.dumps({"running": 0}), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
