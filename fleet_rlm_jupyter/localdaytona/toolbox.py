"""The daemon inside each sandbox: commands, terminals and files over a socket that only the server reaches."""

import asyncio

# asyncio imports it late, when the user of a sandbox may no longer read its file.
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from fleet_rlm_jupyter.localdaytona import strict
from fleet_rlm_jupyter.localdaytona.files import FileRoutes
from fleet_rlm_jupyter.localdaytona.plan import SandboxPlan, linked_place
from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses
from fleet_rlm_jupyter.localdaytona.terminals import TerminalRoutes
from fleet_rlm_jupyter.localdaytona.wire import DAEMON, HEADER_BYTES, LINE_BYTES, ApiError, error_body, parse_object

_RESULT_BYTES = 32 << 20
_LONGEST_SECONDS = 24 * 3600
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def run(
    plan: SandboxPlan, listener: socket.socket, link: socket.socket, confine: Callable[[], None] | None = None
) -> None:
    """Serve until the other end of `link`, held by the fork server, is closed; each command calls `confine` first."""
    if plan.strict_volumes:
        strict.hold([mount.target if plan.level == "L3" else linked_place(plan, mount.target) for mount in plan.mounts])
    asyncio.run(_serve(plan, listener, link, confine))


async def _serve(
    plan: SandboxPlan, listener: socket.socket, link: socket.socket, confine: Callable[[], None] | None
) -> None:
    processes = SandboxProcesses(plan, confine)
    processes.watch()
    app = web.Application(middlewares=[_errors_as_json], client_max_size=64 << 20)
    CommandRoutes(processes).add_routes(app)
    TerminalRoutes(processes).add_routes(app)
    FileRoutes(processes).add_routes(app)
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=3600, max_line_size=LINE_BYTES, max_field_size=HEADER_BYTES
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(link, ended.set)
    link.send(b'{"ready": true}\n')
    await ended.wait()
    if plan.level != "L3":
        processes.kill_all()


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as err:
        problem = err
    except web.HTTPException as err:
        problem = ApiError(err.status, err.reason.upper().replace(" ", "_"), err.reason)
    body = error_body(problem, DAEMON, request.method, request.path)
    return web.Response(status=problem.status, body=body, content_type="application/json")


class CommandRoutes:
    """The routes that say where things are, and run one command to its end."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/work-dir", self._work_dir)
        app.router.add_get("/user-home-dir", self._work_dir)
        app.router.add_get("/version", self._version)
        app.router.add_post("/process/execute", self._execute)
        app.router.add_post("/process/code-run", self._code_run)

    async def _work_dir(self, request: web.Request) -> web.Response:
        return web.json_response({"dir": self._processes.home})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "localdaytona"})

    async def _execute(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        command = body.get("command")
        if not isinstance(command, str) or not command.strip():
            raise ApiError(400, "BAD_REQUEST", "command must not be empty")
        argv = [self._processes.shell, "-c", command]
        code, result = await self._run(argv, body)
        return web.json_response({"exitCode": code, "result": result})

    async def _code_run(self, request: web.Request) -> web.Response:
        body = parse_object(await request.read())
        code, arguments = body.get("code"), body.get("argv") or []
        if not isinstance(code, str) or not isinstance(arguments, list):
            raise ApiError(400, "BAD_REQUEST", "code must be a string and argv a list")
        if body.get("language", "python") != "python":
            raise ApiError(400, "BAD_REQUEST", "only python can be run here")
        folder = tempfile.mkdtemp(prefix="code-", dir=self._processes.tmp)
        try:
            path = os.path.join(folder, "main.py")
            with open(path, "w", encoding="utf-8") as file:
                file.write(code)
            argv = ["python3", "-u", path, *(str(argument) for argument in arguments)]
            exit_code, result = await self._run(argv, body)
        except UnicodeEncodeError as err:
            raise ApiError(400, "BAD_REQUEST", f"the code is not text: {err}") from err
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return web.json_response({"exitCode": exit_code, "result": result, "artifacts": {"charts": []}})

    async def _run(self, argv: list[str], body: dict[str, object]) -> tuple[int, str]:
        """Run to the end; ApiError 408 after the time asked for, and then nothing of it runs on."""
        envs = body.get("envs") or {}
        if not isinstance(envs, dict) or not all(_is_env(name, value) for name, value in envs.items()):
            raise ApiError(400, "BAD_REQUEST", "envs must map valid names to strings")
        timeout = _seconds(body.get("timeout"))
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        output = _Output(reader)
        try:
            cwd = self._processes.resolve(body.get("cwd"))
            pid, ended = self._processes.start(argv, cwd, envs, subprocess.DEVNULL, writer)
        except OSError as err:
            output.close()
            return -1, str(err)
        finally:
            os.close(writer)
        try:
            code = await asyncio.wait_for(ended, timeout)
        except TimeoutError as err:
            raise ApiError(408, "PROCESS_EXECUTION_TIMEOUT", f"command timed out after {timeout} s") from err
        finally:
            if not ended.done() or ended.cancelled():
                self._processes.kill_session(pid)
            output.close()
        return code, output.text()


class _Output:
    """Collects what comes out of a pipe, up to a limit; the rest is read and dropped."""

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self._data = bytearray()
        asyncio.get_running_loop().add_reader(reader, self._read)

    def close(self) -> None:
        """Take what is there now. A process left in the background may hold the pipe open: do not wait for it."""
        deadline = time.monotonic() + 1
        while self._read() and time.monotonic() < deadline:
            pass
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)

    def text(self) -> str:
        return self._data.decode("utf-8", "replace")

    def _read(self) -> bool:
        try:
            piece = os.read(self._reader, 256 * 1024)
        except BlockingIOError:
            return False
        if not piece:
            asyncio.get_running_loop().remove_reader(self._reader)
            return False
        self._data += piece[: max(_RESULT_BYTES - len(self._data), 0)]
        return True


def _is_env(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return bool(name) and "=" not in name and "\0" not in name + value


def _seconds(value: object) -> float | None:
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_SECONDS:
        raise ApiError(400, "BAD_REQUEST", f"timeout must be between 0 and {_LONGEST_SECONDS} seconds")
    return float(value)
