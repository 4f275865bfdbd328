"""Daytona's code interpreter: contexts, each a Python process that keeps its variables.

Output is read from the process's own descriptors, so that of its children and threads is there too. The process tells
its results on a third one, a JSON object per line.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
import uuid

from aiohttp import WSMsgType, web

from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses
from fleet_rlm_jupyter.localdaytona.wire import ApiError, parse_object, timestamp

_TIMED_OUT = 4008  # the code of a WebSocket's close by which the SDK knows a timeout
_GRACE_SECONDS = 2.0
_READ_BYTES = 64 * 1024
_DEFAULT = "default"
_REQUEST_BYTES = 8 << 20

WORKER = r"""
import ast, json, os, signal, sys, traceback
requests, answers = os.fdopen(os.dup(0)), os.fdopen(int(sys.argv[1]), "w")
os.set_inheritable(answers.fileno(), False)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
names = {"__name__": "__main__", "__builtins__": __builtins__}
sys.argv = [""]
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in requests:
    request = json.loads(line)
    said, kept = {}, {name: os.environ.get(name) for name in request["envs"]}
    os.environ.update(request["envs"])
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            tree = ast.parse(request["code"], "<cell>")
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "<cell>", "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
                if value is not None:
                    print(repr(value))
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except BaseException as err:
        said = {"name": type(err).__name__, "value": str(err), "traceback": traceback.format_exc()}
    for name, value in kept.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    for stream in (sys.stdout, sys.stderr):
        try: stream.flush()
        except Exception: pass
    answers.write(json.dumps(said) + "\n")
    answers.flush()
"""


class InterpreterContext:
    """One Python process. Pieces of code wait for each other; what code prints goes to whoever runs it."""

    def __init__(self, identifier: str, cwd: str, processes: SandboxProcesses) -> None:
        self.identifier = identifier
        self.cwd = cwd
        self.created = time.time()
        self._processes = processes
        self._lock = asyncio.Lock()
        self._is_broken = False
        request_reader, self._requests = os.pipe()
        answer_reader, answer_writer = os.pipe()
        out, out_writer = os.pipe()
        err, err_writer = os.pipe()
        theirs = (request_reader, answer_writer, out_writer, err_writer)
        argv = ["python3", "-u", "-c", WORKER, str(answer_writer)]
        try:
            self.pid, self._ended = processes.start(
                argv, cwd, {}, request_reader, out_writer, more=(err_writer, answer_writer)
            )
        except OSError as problem:
            for fd in (self._requests, answer_reader, out, err):
                os.close(fd)
            raise ApiError(400, "BAD_REQUEST", f"cannot start python3 in {cwd}: {problem}") from problem
        finally:
            for fd in theirs:
                os.close(fd)
        self._fds = {"stdout": out, "stderr": err, "answer": answer_reader}
        self._heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        for name, fd in self._fds.items():
            os.set_blocking(fd, False)
            asyncio.get_running_loop().add_reader(fd, self._read, name)

    @property
    def is_active(self) -> bool:
        return not self._is_broken and not self._ended.done()

    def info(self) -> dict[str, object]:
        return {
            "id": self.identifier,
            "cwd": self.cwd,
            "createdAt": timestamp(self.created),
            "active": self.is_active,
            "language": "python",
        }

    async def run(self, socket: web.WebSocketResponse, code: str, envs: dict[str, str], timeout: float | None) -> None:
        """Run `code` and tell it all to the socket; raises TimeoutError after `timeout`, with the code interrupted."""
        async with self._lock:
            while not self._heard.empty():  # said by threads between two pieces of code
                self._heard.get_nowait()
            line = json.dumps({"code": code, "envs": envs}).encode() + b"\n"
            await asyncio.to_thread(_write_all, self._requests, line)
            try:
                await asyncio.wait_for(self._tell(socket), timeout)
            except TimeoutError:
                await self._interrupt()
                raise

    def close(self) -> None:
        self._processes.kill_session(self.pid)
        for fd in self._fds.values():
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        self._fds.clear()
        os.close(self._requests)

    async def _tell(self, socket: web.WebSocketResponse) -> None:
        decoders = {name: bytearray() for name in ("stdout", "stderr")}
        answer = bytearray()
        while not answer.endswith(b"\n"):
            name, data = await self._heard.get()
            if name == "answer":
                if not data:
                    self._is_broken = True
                    raise ConnectionResetError("the interpreter ended: it was killed, or ran out of memory")
                answer += data
            else:
                await _send_text(socket, name, decoders[name], data)
        for name in decoders:
            self._read(name)
        while not self._heard.empty():
            name, data = self._heard.get_nowait()
            if name in decoders:
                await _send_text(socket, name, decoders[name], data)
        if error := json.loads(answer):
            await socket.send_str(json.dumps({"type": "error", **error}))
        await socket.send_str(json.dumps({"type": "control", "text": "completed"}))

    async def _interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                while (await self._heard.get())[0] != "answer":
                    pass
        except TimeoutError:
            self._processes.kill_session(self.pid)

    def _read(self, name: str) -> None:
        fd = self._fds[name]
        while True:
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                return
            if data or name == "answer":
                self._heard.put_nowait((name, data))
            if not data:
                asyncio.get_running_loop().remove_reader(fd)
                return


class InterpreterRoutes:
    """The routes below /process/interpreter. The default context is made when it is first used."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes
        self._all: dict[str, InterpreterContext] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/process/interpreter/context", self._create)
        app.router.add_get("/process/interpreter/context", self._list)
        app.router.add_delete("/process/interpreter/context/{id}", self._delete)
        app.router.add_get("/process/interpreter/execute", self._execute)

    async def _create(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        if body.get("language", "python") not in ("python", None):
            raise ApiError(400, "BAD_REQUEST", "only python can be run here")
        context = self._open(str(uuid.uuid4()), self._processes.resolve(body.get("cwd")))
        return web.json_response(context.info())

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"contexts": [one.info() for name, one in self._all.items() if name != _DEFAULT]})

    async def _delete(self, request: web.Request) -> web.Response:
        identifier = request.match_info["id"]
        if identifier == _DEFAULT:
            raise ApiError(400, "BAD_REQUEST", "the default context cannot be deleted")
        self._find(identifier).close()
        del self._all[identifier]
        return web.json_response({"message": "Context deleted"})

    async def _execute(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=_REQUEST_BYTES)
        await socket.prepare(request)
        with contextlib.suppress(ConnectionError):
            message = await socket.receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return socket
            try:
                code, reason = await self._run(socket, message.data)
            except ApiError as err:
                code, reason = 1008, err.message
            await socket.close(code=code, message=reason.encode()[:120])
        return socket

    async def _run(self, socket: web.WebSocketResponse, raw: str | bytes) -> tuple[int, str]:
        body = parse_object(raw.encode() if isinstance(raw, str) else raw)
        code, envs, timeout = body.get("code"), body.get("envs") or {}, body.get("timeout")
        if not isinstance(code, str) or not isinstance(envs, dict):
            raise ApiError(400, "BAD_REQUEST", "code must be a string and envs an object")
        seconds = float(timeout) if isinstance(timeout, int | float) and timeout > 0 else None
        identifier = str(body.get("contextId") or _DEFAULT)
        if identifier == _DEFAULT and (_DEFAULT not in self._all or not self._all[_DEFAULT].is_active):
            self._open(_DEFAULT, self._processes.home)
        try:
            await self._find(identifier).run(socket, code, {str(k): str(v) for k, v in envs.items()}, seconds)
        except TimeoutError:
            return _TIMED_OUT, "execution timed out"
        except (ConnectionResetError, BrokenPipeError) as err:
            return 1011, str(err)
        return 1000, ""

    def _open(self, identifier: str, cwd: str) -> InterpreterContext:
        if identifier in self._all:
            self._all[identifier].close()
        self._all[identifier] = InterpreterContext(identifier, cwd, self._processes)
        return self._all[identifier]

    def _find(self, identifier: str) -> InterpreterContext:
        if identifier not in self._all:
            raise ApiError(404, "NOT_FOUND", f"Context {identifier} not found")
        return self._all[identifier]


async def _send_text(socket: web.WebSocketResponse, name: str, rest: bytearray, data: bytes) -> None:
    """Send what is whole of `rest` and `data`; a character cut in two stays in `rest`."""
    rest += data
    cut = len(rest)
    for back in range(1, min(4, len(rest) + 1)):
        if rest[-back] >= 0xC0:  # the first byte of a character of several
            wanted = 2 if rest[-back] < 0xE0 else 3 if rest[-back] < 0xF0 else 4
            cut = len(rest) - back if wanted > back else cut
            break
        if rest[-back] < 0x80:
            break
    text = bytes(rest[:cut]).decode("utf-8", "replace")
    del rest[:cut]
    if text:
        await socket.send_str(json.dumps({"type": name, "text": text}))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
