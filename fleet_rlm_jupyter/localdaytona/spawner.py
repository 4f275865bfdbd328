"""The server's side of the fork server: starts it, asks for sandboxes, hears when they end."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from fleet_rlm_jupyter.localdaytona.plan import SandboxPlan

_START_SECONDS = 60


class SpawnError(Exception):
    """A sandbox did not start; the text says which step the system refused."""


@dataclass(frozen=True)
class ForkServer:
    """The process, and the socket it listens to."""

    process: subprocess.Popen[bytes]
    control: socket.socket


def start_fork_server(base: str) -> ForkServer:
    """Start the fork server as a process of its own, with no key and no variable in it."""
    ours, theirs = socket.socketpair()
    code = (
        f"import sys; plain = sys.path[:]; sys.path[:] = {sys.path!r}; "
        f"from fleet_rlm_jupyter.localdaytona import zygote; zygote.main({theirs.fileno()}, {base!r}, plain)"
    )
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        pass_fds=(theirs.fileno(),),
        env={"LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        cwd="/",
    )
    theirs.close()
    return ForkServer(process, ours)


class Spawner:
    """Requests to the fork server, matched with its answers by sandbox id."""

    def __init__(self, control: socket.socket, on_exit: Callable[[str], None]) -> None:
        self._control = control
        self._on_exit = on_exit
        self._waiting: dict[tuple[str, str], list[asyncio.Future[dict[str, object]]]] = {}
        self.lost = asyncio.Event()

    async def listen(self) -> None:
        """Deliver what the fork server says, until it is gone."""
        self._control.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._control)
        self._task = asyncio.create_task(self._read(reader))

    async def launch(self, plan: SandboxPlan) -> dict[str, object]:
        """Start a sandbox and return when its toolbox answers; raises SpawnError."""
        answer = self._expect(plan.sandbox_id, "ready")
        self._ask({"op": "start", "plan": asdict(plan)})
        try:
            return await asyncio.wait_for(answer, _START_SECONDS)
        except TimeoutError as err:
            self._ask({"op": "kill", "id": plan.sandbox_id})
            raise SpawnError(f"the sandbox did not start within {_START_SECONDS} s") from err

    async def kill(self, identifier: str) -> None:
        """Return when no process of the sandbox is left."""
        ended = self._expect(identifier, "exit")
        self._ask({"op": "kill", "id": identifier})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended, _START_SECONDS)

    async def remove(self, identifier: str, folder: str) -> None:
        removed = self._expect(identifier, "removed")
        self._ask({"op": "remove", "id": identifier, "path": folder})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(removed, _START_SECONDS)

    def close(self) -> None:
        """The fork server kills every sandbox and deletes the folders when it sees this."""
        self._writer.close()

    def _ask(self, request: dict[str, object]) -> None:
        self._writer.write(json.dumps(request).encode() + b"\n")

    def _expect(self, identifier: str, event: str) -> "asyncio.Future[dict[str, object]]":
        future: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        if self.lost.is_set():
            future.set_exception(SpawnError("the fork server is gone"))
        self._waiting.setdefault((identifier, event), []).append(future)
        return future

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                message = json.loads(line)
                identifier, event = message["id"], message["event"]
                match event:
                    case "failed":
                        self._refuse(identifier, message["error"])
                    case "exit":
                        self._refuse(identifier, "the sandbox ended while it started")
                        self._on_exit(identifier)
                    case _:
                        pass
                for future in self._waiting.pop((identifier, event), []):
                    if not future.done():
                        future.set_result(message)
        self.lost.set()
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(SpawnError("the fork server is gone"))

    def _refuse(self, identifier: str, text: str) -> None:
        for future in self._waiting.pop((identifier, "ready"), []):
            if not future.done():
                future.set_exception(SpawnError(text))
