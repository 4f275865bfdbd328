"""The worker process: the Workbench, and its API on a loopback port that only the Jupyter server has the key of.

Its first line on stdin is {key, settings, log}, its first on stdout {port} or {problem}; then a line {running} whenever
the number of runs changes. The end of its stdin is the end of the server, and so its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from fleet_rlm_jupyter.domain.api import API
from fleet_rlm_jupyter.domain.errors import FleetError
from fleet_rlm_jupyter.server.desk import Desk, Readiness
from fleet_rlm_jupyter.server.feeds import Feeds
from fleet_rlm_jupyter.server.logs import log_to_stderr
from fleet_rlm_jupyter.server.routes import ROUTES
from fleet_rlm_jupyter.server.socket import WorkerSocket
from fleet_rlm_jupyter.server.uploads import ContextHandler
from fleet_rlm_jupyter.server.web import NotFound, handlers
from fleet_rlm_jupyter.settings import load
from fleet_rlm_jupyter.workbench import Workbench

STOP_SECONDS = 3.5
"""After this the process ends, whatever still hangs."""

MAX_BODY_BYTES = 4 * 1024**3


def application(bench: Workbench, key: str, on_running: Callable[[int], None] = lambda running: None) -> Application:
    """The API over `bench`. Call it on a running event loop."""
    desk = Desk(bench, Feeds(on_running), Readiness(bench.check), key)
    paths = [*handlers(ROUTES), (f"{API}/contexts/(?P<sha256>[^/]+)", ContextHandler), (f"{API}/ws", WorkerSocket)]
    return Application(
        paths,
        desk=desk,
        default_handler_class=NotFound,
        websocket_max_message_size=16 * 1024**2,  # above our own limit, so that the answer is a frame and not a close
        log_function=lambda handler: None,
    )


def main(open_bench: Callable[[dict[str, Any]], Workbench] | None = None) -> None:
    """Serve until stdin ends or SIGTERM comes. `open_bench` makes the Workbench from the settings of the server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = json.loads(sys.stdin.readline())
    formatter = log_to_stderr(given.get("log", "text"))
    parent = _parent()
    try:
        bench = (open_bench or _bench)(given["settings"])
    except FleetError as err:
        _say(parent, problem={"code": err.code, "message": err.text, "hint": err.hint})
        return
    formatter.mask = lambda text: bench.mask(text)  # a setting that is changed may bring another key
    asyncio.run(_serve(bench, given["key"], parent))
    # Threads of runs that do not heed their cancel, and of libraries, must not keep the process.
    os._exit(0)


def _bench(settings: dict[str, Any]) -> Workbench:
    return Workbench(load(config=settings))


async def _serve(bench: Workbench, key: str, parent: TextIO) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    threading.Thread(target=_wait_for_parent, args=(loop, stopped), daemon=True).start()
    lock = threading.Lock()

    def on_running(running: int) -> None:
        with lock:
            _say(parent, running=running)

    server = HTTPServer(application(bench, key, on_running), max_body_size=MAX_BODY_BYTES)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    _say(parent, port=sockets[0].getsockname()[1])
    # Imports hold the GIL for moments: better now than while somebody wants to stop the first run.
    threading.Thread(target=bench.warm, name="fleet-warm", daemon=True).start()
    await stopped.wait()
    server.stop()
    hurry = threading.Timer(STOP_SECONDS, os._exit, (1,))
    hurry.daemon = True
    hurry.start()
    await asyncio.to_thread(bench.close)


def _wait_for_parent(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    sys.stdin.read()
    threading.Timer(STOP_SECONDS, os._exit, (1,)).start()  # also where the loop is stuck
    loop.call_soon_threadsafe(stopped.set)


def _parent() -> TextIO:
    """The line to the server. What libraries print goes to the log instead."""
    line = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return line


def _say(parent: TextIO, **said: Any) -> None:
    try:
        parent.write(json.dumps(said) + "\n")
        parent.flush()
    except OSError:
        return  # the server is gone, and so are we in a moment


if __name__ == "__main__":
    main()
