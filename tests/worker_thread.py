"""The worker's API over a Workbench of the test, served by a thread: the same handlers, without the process around."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import requests
import websocket
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from fleet_rlm_jupyter.domain.api import API, KEY_HEADER, USER_HEADER
from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.events import Limits, RunEnded, RunStarted
from fleet_rlm_jupyter.domain.session import new_id
from fleet_rlm_jupyter.engine.controls import Controls
from fleet_rlm_jupyter.engine.recorder import Emit
from fleet_rlm_jupyter.server.worker import application
from fleet_rlm_jupyter.verbs.live import LiveRun
from fleet_rlm_jupyter.verbs.starting import Request, Work
from fleet_rlm_jupyter.workbench import Workbench

KEY = "k3y"


class WorkerThread:
    """`running` has every number of runs that the server was told."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.running: list[int] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        self.url = f"http://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = HTTPServer(application(self.bench, KEY, self.running.append), max_body_size=4 * 1024**3)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.stop()

    def headers(self, user: str = "ann") -> dict[str, str]:
        return {KEY_HEADER: KEY, USER_HEADER: quote(user, safe="")}

    def ask(self, method: str, path: str, user: str = "ann", **more: Any) -> requests.Response:
        return requests.request(method, self.url + API + path, headers=self.headers(user), timeout=60, **more)

    def socket(self, user: str = "ann", **more: Any) -> Socket:
        header = [f"{name}: {value}" for name, value in self.headers(user).items()]
        url = f"ws://127.0.0.1:{self.port}{API}/ws"
        return Socket(websocket.create_connection(url, header=header, timeout=30, **more))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        self.bench.close()


class Socket:
    """One connection; `events` are those that came in, by run."""

    def __init__(self, line: websocket.WebSocket) -> None:
        self.line = line
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.frames: list[dict[str, Any]] = []

    def send(self, **op: Any) -> None:
        self.line.send(json.dumps(op))

    def receive(self) -> dict[str, Any]:
        frame = json.loads(self.line.recv())
        self.frames.append(frame)
        for event in frame.get("events", []):
            self.events.setdefault(event["run_id"], []).append(event)
        return frame

    def reply(self, **op: Any) -> dict[str, Any]:
        """Send an op and wait for its reply."""
        self.send(**op)
        while True:
            frame = self.receive()
            if frame["type"] in ("accepted", "ok", "error"):
                return frame

    def follow_to_the_end(self, run_id: str) -> list[dict[str, Any]]:
        while not (self.events.get(run_id) and self.events[run_id][-1]["type"] == "run.ended"):
            self.receive()
        return self.events[run_id]

    def close(self) -> None:
        self.line.close()


def talk(bench: Workbench, owner: str, work: Callable[[Emit], None]) -> LiveRun:
    """A run of that user's whose events are what `work` emits, between its beginning and its end."""
    starter = bench.seen_by(owner)._starter
    budget = Budget(Limits())

    def all_of_it(emit: Emit) -> RunEnded:
        emit(RunStarted(program="talk", message="m", model="none", limits=Limits(), isolation="none"), None)
        work(emit)
        end = RunEnded(status="cancelled" if budget.stopped else "done", answer="said")
        emit(end, None)
        return end

    return starter.begin(Request(new_id("r"), new_id("s"), "talk"), Work(budget, Controls(), all_of_it))
