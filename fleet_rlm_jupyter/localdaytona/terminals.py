"""PTY sessions of one sandbox: a shell on a pseudo terminal that any number of WebSockets may watch."""

import asyncio
import base64
import binascii
import contextlib
import fcntl
import json
import os
import pty
import struct
import sys
import termios
import time

from aiohttp import WSMsgType, web

from fleet_rlm_jupyter.localdaytona import warm
from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses
from fleet_rlm_jupyter.localdaytona.wire import ApiError, parse_object, timestamp

_EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"
_ENVS = "X-Daytona-Pty-Envs~"
_READ_BYTES = 32 * 1024
_INPUT_BYTES = 64 * 1024
_LAST_READS = 16
_GET_NUMBER, _SET_LOCK = 0x80045430, 0x40045431  # TIOCGPTN and TIOCSPTLCK of x86 and ARM
_SLOTS = 256  # messages a client may lag behind before it is dropped, as Daytona does


class PtySession:
    """One shell on one pseudo terminal. Output while nobody watches is lost, as on Daytona."""

    def __init__(self, identifier: str, cwd: str, cols: int, rows: int) -> None:
        self.identifier = identifier
        self.cwd = cwd
        self.created = time.time()
        self.active = True
        self.pid = 0
        self._envs: dict[str, str] = {}
        self._clients: dict[asyncio.Queue[bytes | None], bool] = {}
        self._pending = bytearray()
        self._exit_code = 0
        self._master, self._slave = _open_terminal()
        os.set_blocking(self._master, False)
        self.resize(cols, rows)

    def run(self, processes: SandboxProcesses, envs: dict[str, str]) -> None:
        self._envs = envs
        try:
            if warm.MODULE in envs and processes.has_warm_python:
                self.pid, ended = processes.fork_python(envs[warm.MODULE], self.cwd, envs, self._slave)
            else:
                self.pid, ended = processes.start(
                    [processes.shell, "-i"], self.cwd, envs, self._slave, self._slave, terminal=True
                )
        except OSError as err:
            os.close(self._master)
            raise ApiError(400, "BAD_REQUEST", f"cannot start a shell in {self.cwd}: {err}") from err
        finally:
            os.close(self._slave)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        ended.add_done_callback(self._on_exit)

    def info(self) -> dict[str, object]:
        return {
            "id": self.identifier,
            "cwd": self.cwd,
            "envs": self._envs,
            "cols": self.cols,
            "rows": self.rows,
            "createdAt": timestamp(self.created),
            "active": self.active,
            "lazyStart": False,
        }

    def resize(self, cols: int, rows: int) -> None:
        self.cols, self.rows = cols, rows
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def write(self, data: bytes) -> None:
        if self.active:
            self._pending += data
            self._flush()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Carry bytes both ways until the shell ends, the client leaves, or it lags too far behind."""
        offered = [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        tells_exit = _EXIT_CONTROL in offered
        socket = web.WebSocketResponse(
            protocols=(_EXIT_CONTROL,) if tells_exit else (), max_msg_size=_INPUT_BYTES, compress=False
        )
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_SLOTS + 2)
        if self.active:
            self._clients[queue] = True
        else:
            queue.put_nowait(None)
        await socket.prepare(request)
        await socket.send_str('{"type":"control","status":"connected"}')
        sender = asyncio.create_task(self._send(socket, queue, tells_exit))
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    self.write(message.data)
                elif message.type is WSMsgType.TEXT:
                    self.write(message.data.encode())
        finally:
            self._clients.pop(queue, None)
            sender.cancel()
        return socket

    async def _send(
        self, socket: web.WebSocketResponse, queue: "asyncio.Queue[bytes | None]", tells_exit: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while (data := await queue.get()) is not None:
                await socket.send_bytes(data)
            if self.active:
                await socket.close(code=1008, message=b"slow consumer")
                return
            exit_data = {"exitCode": self._exit_code}
            if tells_exit:
                await socket.send_str(json.dumps({"type": "control", "status": "exited", **exit_data}))
            await socket.close(code=1000, message=json.dumps(exit_data).encode())

    def _read(self) -> bool:
        """Pass on what the terminal shows now; false when there is nothing more."""
        try:
            data = os.read(self._master, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process on the other side is gone
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
            return False
        for queue in list(self._clients):
            if queue.qsize() < _SLOTS:
                queue.put_nowait(data)
            else:
                del self._clients[queue]
                queue.put_nowait(None)
        return True

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._pending:
                written = os.write(self._master, self._pending[:4096])
                del self._pending[:written]
        except BlockingIOError:
            loop.add_writer(self._master, self._flush)
            return
        except OSError:
            self._pending.clear()
        loop.remove_writer(self._master)

    def _on_exit(self, ended: "asyncio.Future[int]") -> None:
        for _ in range(_LAST_READS):  # what the shell said last; a child of it may still be talking
            if not self._read():
                break
        self.active = False
        self._exit_code = ended.result()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        os.close(self._master)
        for queue in self._clients:
            queue.put_nowait(None)
        self._clients.clear()


class TerminalRoutes:
    """The routes below /process/pty."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes
        self._all: dict[str, PtySession] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/process/pty", self._list)
        app.router.add_post("/process/pty", self._create)
        app.router.add_get("/process/pty/create-connect", self._create_connect)
        app.router.add_get("/process/pty/{id}/connect", self._connect)
        app.router.add_get("/process/pty/{id}", self._get)
        app.router.add_delete("/process/pty/{id}", self._delete)
        app.router.add_post("/process/pty/{id}/resize", self._resize)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"sessions": [terminal.info() for terminal in self._all.values()]})

    async def _create(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        terminal = self._open(body, body.get("envs") or {})
        return web.json_response({"sessionId": terminal.identifier}, status=201)

    async def _create_connect(self, request: web.Request) -> web.WebSocketResponse:
        return await self._open(dict(request.query), _envs_of(request)).serve(request)

    async def _connect(self, request: web.Request) -> web.WebSocketResponse:
        return await self._find(request).serve(request)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(request).info())

    async def _delete(self, request: web.Request) -> web.Response:
        terminal = self._find(request)
        if terminal.active:
            self._processes.kill_session(terminal.pid)
        self._all.pop(terminal.identifier, None)
        return web.json_response({"message": "PTY session deleted"})

    async def _resize(self, request: web.Request) -> web.Response:
        terminal = self._find(request)
        body = parse_object(await request.read())
        if not terminal.active:
            raise ApiError(410, "SESSION_ENDED", "PTY session has ended")
        terminal.resize(_size(body, "cols", 80), _size(body, "rows", 24))
        return web.json_response(terminal.info())

    def _find(self, request: web.Request) -> PtySession:
        identifier = request.match_info["id"]
        if identifier not in self._all:
            raise ApiError(404, "NOT_FOUND", f"PTY session {identifier} not found")
        return self._all[identifier]

    def _open(self, wanted: dict[str, object], envs: object) -> PtySession:
        identifier = wanted.get("id")
        if not isinstance(identifier, str) or not identifier:
            raise ApiError(400, "BAD_REQUEST", "a PTY session needs an id")
        if not isinstance(envs, dict) or not all(isinstance(value, str) for value in envs.values()):
            raise ApiError(400, "BAD_REQUEST", "envs must map names to strings")
        if identifier in self._all:
            if self._all[identifier].active:
                raise ApiError(409, "CONFLICT", f"PTY session {identifier} already exists")
            del self._all[identifier]
        cwd = self._processes.resolve(wanted.get("cwd"))
        terminal = PtySession(identifier, cwd, _size(wanted, "cols", 80), _size(wanted, "rows", 24))
        terminal.run(self._processes, envs)
        self._all[identifier] = terminal
        return terminal


def _size(wanted: dict[str, object], name: str, default: int) -> int:
    try:
        value = int(str(wanted.get(name) or default))
    except ValueError as err:
        raise ApiError(400, "BAD_REQUEST", f"{name} must be a number") from err
    if not 1 <= value <= 1000:
        raise ApiError(400, "BAD_REQUEST", f"{name} must be between 1 and 1000")
    return value


def _envs_of(request: web.Request) -> dict[str, str]:
    for part in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        token = part.strip()
        if token.startswith(_ENVS):
            encoded = token[len(_ENVS) :]
            try:
                envs = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
            except (binascii.Error, ValueError) as err:
                raise ApiError(400, "BAD_REQUEST", f"the envs of the PTY cannot be read: {err}") from err
            return envs
    return {}


def _open_terminal() -> tuple[int, int]:
    """Both ends of a new pseudo terminal."""
    # CPython 3.11 to 3.14: openpty() holds the interpreter's lock while it opens files, which the thread that answers
    # for a strict volume needs.
    if not sys.platform.startswith("linux"):
        return pty.openpty()
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _SET_LOCK, struct.pack("i", 0))
        (number,) = struct.unpack("I", fcntl.ioctl(master, _GET_NUMBER, b"\0" * 4))
        return master, os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise
