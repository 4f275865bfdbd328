"""A server extension of the tests: measures how late the server's loop wakes up, 200 times a second."""

import asyncio
import json
import time

from tornado import web

EVERY_SECONDS = 0.005


def _load_jupyter_server_extension(serverapp):
    late = []
    serverapp.io_loop.add_callback(lambda: setattr(serverapp, "_probe", asyncio.ensure_future(probe(late))))
    path = serverapp.web_app.settings["base_url"] + "late"
    serverapp.web_app.add_handlers(".*$", [(path, LateHandler, {"late": late})])


async def probe(late):
    while True:
        due = time.monotonic() + EVERY_SECONDS
        await asyncio.sleep(EVERY_SECONDS)
        late.append(time.monotonic() - due)


class LateHandler(web.RequestHandler):
    """The seconds of each time since the last request."""

    def initialize(self, late):
        self.late = late

    def get(self):
        taken, self.late[:] = list(self.late), []
        self.finish(json.dumps(taken))
