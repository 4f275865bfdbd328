"""Runs one command in a sandbox to its end, and the routes for that."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping

from aiohttp import web

from fleet_rlm_jupyter.localdaytona.processes import SandboxProcesses, is_env
from fleet_rlm_jupyter.localdaytona.wire import ApiError, parse_object

_RESULT_BYTES = 32 << 20
_LONGEST_SECONDS = 24 * 3600


class CommandRoutes:
    """The routes that run one command, or one piece of code, to its end."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/process/execute", self._execute)
        app.router.add_post("/process/code-run", self._code_run)

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
        envs = body.get("envs") or {}
        if not isinstance(envs, dict) or not all(is_env(name, value) for name, value in envs.items()):
            raise ApiError(400, "BAD_REQUEST", "envs must map valid names to strings")
        timeout = _seconds(body.get("timeout"))
        return await run_to_end(self._processes, argv, self._processes.resolve(body.get("cwd")), envs, timeout)


async def run_to_end(
    processes: SandboxProcesses, argv: list[str], cwd: str, envs: Mapping[str, str], timeout: float | None
) -> tuple[int, str]:
    """Exit code and output; -1 and why when it cannot start. ApiError 408 after `timeout`, and nothing runs on."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    output = _Output(reader)
    try:
        pid, ended = processes.start(argv, cwd, envs, subprocess.DEVNULL, writer)
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
            processes.kill_session(pid)
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


def _seconds(value: object) -> float | None:
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_SECONDS:
        raise ApiError(400, "BAD_REQUEST", f"timeout must be between 0 and {_LONGEST_SECONDS} seconds")
    return float(value)
