"""Sessions of one sandbox: a shell that keeps its folder and variables, and the logs of what it was told to run."""

import asyncio
import contextlib
import os
import shlex
import shutil
import tempfile
import uuid

from aiohttp import WSMsgType, web

from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses
from fleet_rlm_jupyter.localdaytona.wire import ApiError, parse_object

_STDOUT, _STDERR = b"\x01\x01\x01", b"\x02\x02\x02"  # before each piece of a log that is followed
_READ_BYTES = 32 * 1024
_LOG_BYTES = 32 << 20
_OPEN_COMMANDS = 32  # of the finished ones; their children may still talk
_EXIT_SECONDS = 0.5  # so long after the end of a shell its last words are waited for


class ShellCommand:
    """One command of a session; named pipes in `folder` carry its input, output and exit code."""

    def __init__(self, text: str, folder: str, echoes: bool) -> None:
        self.identifier = str(uuid.uuid4())
        self.text = text
        self.exit_code: int | None = None
        self.ended = asyncio.Event()
        self._log: list[tuple[bytes, bytes]] = []
        self._size = 0
        self._echoes = echoes
        self._watchers: set[asyncio.Queue[bytes | None]] = set()
        self._folder = os.path.join(folder, self.identifier)
        os.mkdir(self._folder, 0o700)
        with open(f"{self._folder}/command", "w", encoding="utf-8") as file:
            file.write(text + "\n")
        self._pipes: dict[str, int] = {}
        for name in ("in", "out", "err", "exit"):
            os.mkfifo(f"{self._folder}/{name}", 0o600)
            # both ways, so that it neither waits for the other side nor ends with it
            self._pipes[name] = os.open(f"{self._folder}/{name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipes["out"], self._read, "out", _STDOUT)
        loop.add_reader(self._pipes["err"], self._read, "err", _STDERR)
        loop.add_reader(self._pipes["exit"], self._on_exit)

    def line(self) -> bytes:
        """What the shell must read to run it."""
        at = shlex.quote(self._folder)
        return f". {at}/command < {at}/in > {at}/out 2> {at}/err; echo $? > {at}/exit\n".encode()

    def info(self) -> dict[str, object]:
        code = {} if self.exit_code is None else {"exitCode": self.exit_code}
        return {"id": self.identifier, "command": self.text, **code}

    def output(self) -> dict[str, object]:
        def text(*marks: bytes) -> str:
            return b"".join(piece for mark, piece in self._log if mark in marks).decode("utf-8", "replace")

        return {"output": text(_STDOUT, _STDERR), "stdout": text(_STDOUT), "stderr": text(_STDERR)}

    def send(self, data: str) -> None:
        if self.exit_code is not None:
            raise ApiError(410, "COMMAND_ALREADY_COMPLETED", f"Command {self.identifier} has ended")
        line = (data if data.endswith("\n") else data + "\n").encode()
        try:
            os.write(self._pipes["in"], line)
        except BlockingIOError as err:
            raise ApiError(400, "BAD_REQUEST", "the command does not read its input") from err
        if self._echoes:
            self._keep(_STDOUT, line)

    def finish(self, code: int) -> None:
        if self.exit_code is not None:
            return
        for name, mark in (("out", _STDOUT), ("err", _STDERR)):
            while self._read(name, mark):
                pass
        self.exit_code = code
        self.ended.set()
        for queue in self._watchers:
            queue.put_nowait(None)

    def close(self) -> None:
        """Stop listening: a child that still talks meets a broken pipe."""
        loop = asyncio.get_running_loop()
        for fd in self._pipes.values():
            loop.remove_reader(fd)
            os.close(fd)
        self._pipes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def follow(self, request: web.Request) -> web.WebSocketResponse:
        """Send what is there and what comes, each piece behind the mark of its stream, until the command ends."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for mark, piece in self._log:
            queue.put_nowait(mark + piece)
        if self.exit_code is not None:
            queue.put_nowait(None)
        self._watchers.add(queue)
        gone = asyncio.create_task(_until_closed(socket))
        try:
            with contextlib.suppress(ConnectionError):
                while not gone.done() and (piece := await _either(queue, gone)) is not None:
                    await socket.send_bytes(piece)
                await socket.close()
        finally:
            self._watchers.discard(queue)
            gone.cancel()
        return socket

    def _read(self, name: str, mark: bytes) -> bool:
        """Keep what there is now; false when there is no more."""
        try:
            data = os.read(self._pipes[name], _READ_BYTES)
        except (BlockingIOError, KeyError):
            return False
        self._keep(mark, data)
        return True

    def _keep(self, mark: bytes, data: bytes) -> None:
        data = data[: max(_LOG_BYTES - self._size, 0)]
        if not data:
            return
        self._size += len(data)
        self._log.append((mark, data))
        for queue in self._watchers:
            queue.put_nowait(mark + data)

    def _on_exit(self) -> None:
        with contextlib.suppress(BlockingIOError, ValueError):
            self.finish(int(os.read(self._pipes["exit"], 64)))


class ShellSession:
    """A shell whose commands run one after the other."""

    def __init__(self, identifier: str, processes: SandboxProcesses) -> None:
        self.identifier = identifier
        self.commands: dict[str, ShellCommand] = {}
        self._processes = processes
        self._folder = tempfile.mkdtemp(prefix="session-", dir=processes.tmp)
        reader, self._input = os.pipe()
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            self.pid, ended = processes.start([processes.shell], processes.home, {}, reader, null)
        finally:
            os.close(reader)
            os.close(null)
        self.is_over = False
        ended.add_done_callback(self._on_end)

    def info(self) -> dict[str, object]:
        return {"sessionId": self.identifier, "commands": [one.info() for one in self.commands.values()]}

    def run(self, text: str, echoes: bool) -> ShellCommand:
        if self.is_over:
            raise ApiError(410, "SESSION_ENDED", f"Session {self.identifier} has ended")
        finished = [one for one in self.commands.values() if one.exit_code is not None]
        for old in finished[:-_OPEN_COMMANDS]:
            old.close()
        command = ShellCommand(text, self._folder, echoes)
        self.commands[command.identifier] = command
        os.write(self._input, command.line())
        return command

    def close(self) -> None:
        if not self.is_over:
            self._processes.kill_session(self.pid)
        for command in self.commands.values():
            command.close()
        os.close(self._input)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _on_end(self, ended: "asyncio.Future[int]") -> None:
        self.is_over = True
        for command in self.commands.values():
            asyncio.get_running_loop().call_later(_EXIT_SECONDS, command.finish, ended.result())


class ShellRoutes:
    """The routes below /process/session."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes
        self._all: dict[str, ShellSession] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/process/session", self._list)
        app.router.add_post("/process/session", self._create)
        app.router.add_get("/process/session/{id}", self._get)
        app.router.add_delete("/process/session/{id}", self._delete)
        app.router.add_post("/process/session/{id}/exec", self._execute)
        app.router.add_get("/process/session/{id}/command/{command}", self._command)
        app.router.add_get("/process/session/{id}/command/{command}/logs", self._logs)
        app.router.add_post("/process/session/{id}/command/{command}/input", self._input)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([session.info() for session in self._all.values()])

    async def _create(self, request: web.Request) -> web.Response:
        identifier = parse_object(await request.read()).get("sessionId")
        if not isinstance(identifier, str) or not identifier:
            raise ApiError(400, "BAD_REQUEST", "a session needs an id")
        if identifier in self._all:
            raise ApiError(409, "CONFLICT", f"Session {identifier} already exists")
        self._all[identifier] = ShellSession(identifier, self._processes)
        return web.Response(status=201)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(request).info())

    async def _delete(self, request: web.Request) -> web.Response:
        session = self._find(request)
        del self._all[session.identifier]
        session.close()
        return web.Response(status=204)

    async def _execute(self, request: web.Request) -> web.Response:
        session = self._find(request)
        body = parse_object(await request.read())
        text = body.get("command")
        if not isinstance(text, str) or not text.strip():
            raise ApiError(400, "BAD_REQUEST", "command must not be empty")
        command = session.run(text, echoes=not body.get("suppressInputEcho"))
        if body.get("runAsync") or body.get("async"):
            return web.json_response({"cmdId": command.identifier}, status=202)
        await command.ended.wait()
        answer = {"cmdId": command.identifier, "exitCode": command.exit_code, **command.output()}
        return web.json_response(answer)

    async def _command(self, request: web.Request) -> web.Response:
        return web.json_response(self._find_command(request).info())

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        command = self._find_command(request)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await command.follow(request)
        return web.json_response(command.output())

    async def _input(self, request: web.Request) -> web.Response:
        command = self._find_command(request)
        data = parse_object(await request.read()).get("data")
        if not isinstance(data, str):
            raise ApiError(400, "BAD_REQUEST", "data must be a string")
        command.send(data)
        return web.Response(status=204)

    def _find(self, request: web.Request) -> ShellSession:
        identifier = request.match_info["id"]
        if identifier not in self._all:
            raise ApiError(404, "NOT_FOUND", f"Session {identifier} not found")
        return self._all[identifier]

    def _find_command(self, request: web.Request) -> ShellCommand:
        commands, identifier = self._find(request).commands, request.match_info["command"]
        if identifier not in commands:
            raise ApiError(404, "NOT_FOUND", f"Command {identifier} not found")
        return commands[identifier]


async def _until_closed(socket: web.WebSocketResponse) -> None:
    while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        pass


async def _either(queue: "asyncio.Queue[bytes | None]", gone: "asyncio.Task[None]") -> bytes | None:
    """The next piece; None at the end, or when the client is gone."""
    piece = asyncio.create_task(queue.get())
    await asyncio.wait([piece, gone], return_when=asyncio.FIRST_COMPLETED)
    if piece.done():
        return piece.result()
    piece.cancel()
    return None
