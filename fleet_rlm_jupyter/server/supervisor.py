"""Starts the worker process on first use, starts it anew when it has died, and ends it with the server.

This runs in the Jupyter server's process, where every kernel's traffic flows: it imports nothing heavy.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tornado import web

START_SECONDS = 60
STOP_SECONDS = 4
"""After this a worker that was told to stop is killed: the server leaves nothing behind 5 s after its own end."""

RESTARTS_PER_MINUTE = 5

_LOG = "look at the server's log"

State = Literal["idle", "starting", "running", "failed", "stopped"]


class WorkerUnavailable(web.HTTPError):
    """The worker could not be started or has gone: 503, with `problem` as {code, message, hint}."""

    def __init__(self, problem: dict[str, str]) -> None:
        super().__init__(503, "%s", problem["message"])
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker listens, and the key that opens it."""

    port: int
    key: str

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"


class Supervisor:
    """One worker process at a time. Everything runs on the server's event loop."""

    def __init__(
        self,
        command: Sequence[str],
        settings: Mapping[str, Any],
        folder: Path | None,
        log: logging.Logger,
        on_activity: Callable[[int], None],
        log_form: str = "text",
    ) -> None:
        """`log_form` is how the worker writes its log: as text, or a line of JSON a record."""
        self._given = {"settings": dict(settings), "log": log_form}
        self._folder = folder
        self._log = log
        self._on_activity = on_activity
        self._command = command
        self._starting: asyncio.Task[Address] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaths: list[float] = []
        self.state: State = "idle"
        self.problem: dict[str, str] | None = None
        self.running = 0

    async def address(self) -> Address:
        """Where the worker listens; starts it where there is none. Raises WorkerUnavailable."""
        if self.state == "stopped":
            raise WorkerUnavailable(_problem("the server is stopping", "start it again"))
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        try:
            return await asyncio.shield(self._starting)
        except WorkerUnavailable:
            self._starting = None
            raise

    async def stop(self) -> None:
        """End the worker and wait until it is gone."""
        self.state = "stopped"
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            with suppress(asyncio.CancelledError, WorkerUnavailable):
                await self._starting
        process = self._process
        if process is not None and process.returncode is None:
            _hang_up(process)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                self._log.warning("The fleet worker did not stop within %s s and is killed", STOP_SECONDS)
                await _killed(process)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _start(self) -> Address:
        self.state, self.problem = "starting", None
        key = secrets.token_hex(32)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=self._folder,
                start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
            )
        except OSError as err:
            raise self._failed(_problem(f"{self._command[0]} cannot be started: {err.strerror}", _LOG)) from err
        self._process = process
        try:
            said = await asyncio.wait_for(self._greeted(process, key), START_SECONDS)
        except TimeoutError:
            await _killed(process)
            said = {"problem": _problem(f"the worker did not start within {START_SECONDS} s", _LOG)}
        except asyncio.CancelledError:
            await _killed(process)
            raise
        if "port" not in said:
            await _killed(process)
            raise self._failed(said["problem"])
        self.state = "running"
        self._log.info("The fleet worker runs as process %s", process.pid)
        self._keep(self._watch(process))
        return Address(int(str(said["port"])), key)

    def _failed(self, problem: dict[str, str]) -> WorkerUnavailable:
        self.state, self.problem = "failed", problem
        return WorkerUnavailable(problem)

    async def _greeted(self, process: asyncio.subprocess.Process, key: str) -> dict[str, Any]:
        """Give the worker its key and settings, by a pipe that nobody else reads; returns its first line."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(ConnectionError):  # it ended before it read: its exit code says more
            process.stdin.write(json.dumps({"key": key, **self._given}).encode() + b"\n")
            await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            code = await process.wait()
            return {"problem": _problem(f"the worker ended at once with code {code}", _LOG)}
        return json.loads(line)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.running = json.loads(line)["running"]
            self._on_activity(self.running)
        code = await process.wait()
        self.running = 0
        if self.state == "stopped" or process is not self._process:
            return
        self._log.error("The fleet worker died with code %s; open runs are marked failed when it is back", code)
        self._starting, self.state = None, "idle"
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if now - at < 60] + [now]
        if len(self._deaths) <= RESTARTS_PER_MINUTE:
            # Now, not at the next use: its start is what marks its open runs as failed.
            with suppress(WorkerUnavailable):
                await self.address()

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _hang_up(process: asyncio.subprocess.Process) -> None:
    """The end of its stdin tells the worker to stop, as the end of this process would."""
    if process.stdin is not None:
        process.stdin.close()


async def _killed(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _problem(message: str, hint: str) -> dict[str, str]:
    return {"code": "worker_unavailable", "message": message, "hint": hint}
