"""Sandboxes through the real Daytona SDK: in Daytona's cloud when it is configured, else on the local server.

The one module that speaks async: the SDK lives on a loop thread of its own, everything else calls into it. The SDK
costs seconds to import, so that happens on a thread too, as soon as sandboxes may be needed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import random
import secrets
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, TypeVar

from fleet_rlm_jupyter.domain.errors import BadSettings, FleetError, SandboxError, SandboxLost, SandboxUnavailable
from fleet_rlm_jupyter.domain.ports import Interpreter, Isolation, OnOutput, Role
from fleet_rlm_jupyter.sandbox import local
from fleet_rlm_jupyter.sandbox.interpreter import SandboxInterpreter
from fleet_rlm_jupyter.sandbox.kernel_link import KernelLink
from fleet_rlm_jupyter.settings import Settings, bypass_proxies_for_loopback

_T = TypeVar("_T")

APP = "fleet-rlm-jupyter"
CREATE_SECONDS = 120
CALL_SECONDS = 60
FILE_SECONDS = 600
MESSAGE_BYTES = 32_000
AUTO_STOP_MINUTES = 30
WARM = 2
"""Local sandboxes kept ready: starting one costs the SDK's 0.1 s poll and a Python."""

_GUEST = ("codec.py", "output.py", "guest.py")
_RECONNECT_AFTER = (0.0, 0.1, 0.3, 1.0, 3.0, 5.0, 10.0)


class DaytonaSandboxes:
    """`domain.ports.Sandboxes`. Thread-safe; everything it opened ends with `close`, or with the process.

    `trusted_code` says that only code of ours will run, which may do so without isolation.
    """

    def __init__(self, settings: Settings, *, trusted_code: bool = False) -> None:
        self._settings = settings
        self._trusted_code = trusted_code
        self._instance = secrets.token_hex(8)
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._server: local.LocalServer | None = None
        self._machines: set[_Machine] = set()
        self._deletions: set[Future[None]] = set()
        self._warm: list[Future[_Machine]] = []
        self._pool = ThreadPoolExecutor(WARM, thread_name_prefix="fleet-warm")
        self._is_closed = False
        # Importing the SDK takes a second or more; the local server starts meanwhile.
        threading.Thread(target=_sdk, name="fleet-import", daemon=True).start()
        atexit.register(self.close)

    @property
    def isolation(self) -> Isolation:
        if self._settings.daytona.api_key is not None:
            return Isolation("remote", "Daytona — remote sandbox")
        return self._local_server().isolation

    def open(self, role: Role, on_output: OnOutput | None = None) -> Interpreter:
        """An interpreter whose sandbox is made when it starts."""
        return SandboxInterpreter(lambda: self._machine(role), self._settings.sandbox, on_output)

    def child(self, parent_id: str, role: Role, on_output: OnOutput | None = None) -> Interpreter:
        """A clean sandbox for a child: it sees nothing of its parent's but what it is given."""
        return self.open(role, on_output)

    def close(self) -> None:
        """Delete every sandbox and stop the local server; harmless twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            machines, warm = list(self._machines), list(self._warm)
        atexit.unregister(self.close)
        for waiting in warm:
            waiting.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for machine in machines:
            machine.close()
        if self._server is not None:
            self._server.stop()  # takes its sandboxes along
        else:
            for deletion in list(self._deletions):
                with contextlib.suppress(FleetError, FutureTimeoutError):
                    deletion.result(CALL_SECONDS)
        self._stop_loop()

    def call(self, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """Await `work` on the SDK's loop, from any other thread. Raises our errors for the SDK's."""
        loop = self.running_loop()
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), loop)
        try:
            return future.result()
        except CancelledError:
            raise SandboxUnavailable("the sandboxes were closed meanwhile", "make a new Workbench") from None
        except (_sdk().DaytonaError, TimeoutError, OSError) as err:
            raise translated(err) from err

    def forget(self, machine: _Machine) -> None:
        """Delete a sandbox in the background: nobody waits for that."""
        with self._lock:
            self._machines.discard(machine)
            if self._loop is None or (self._is_closed and self._server is not None):
                return
            deletion = asyncio.run_coroutine_threadsafe(self._delete(machine.sandbox), self._loop)
            self._deletions.add(deletion)
            deletion.add_done_callback(self._deletions.discard)

    def _machine(self, role: Role) -> _Machine:
        machine = self._take_warm() or self._create()
        self.running_loop().call_soon_threadsafe(machine.label, self._labels(role))
        return machine

    def _take_warm(self) -> _Machine | None:
        if self._settings.daytona.api_key is not None:
            return None
        with self._lock:
            self._refuse_if_closed()
            waiting = self._warm.pop(0) if self._warm else None
            while len(self._warm) < WARM:
                self._warm.append(self._pool.submit(self._create))
        if waiting is None:
            return None
        with contextlib.suppress(SandboxError):
            return waiting.result()
        return None

    def _create(self) -> _Machine:
        client = self._connected()
        sandbox = self.call(self._create_sandbox(client), CREATE_SECONDS)
        machine = _Machine(self, sandbox)
        with self._lock:
            self._machines.add(machine)
        try:
            self.call(machine.connect(), CALL_SECONDS)
            machine.link.wait_ready(CALL_SECONDS)
        except BaseException:
            machine.close()
            raise
        return machine

    async def _create_sandbox(self, client: Any) -> Any:
        sdk = _sdk()
        params = sdk.CreateSandboxFromSnapshotParams(
            labels=self._labels(None),
            ephemeral=True,
            auto_stop_interval=AUTO_STOP_MINUTES,
            network_block_all=not self._settings.sandbox.network,
        )
        try:
            return await client.create(params, timeout=CREATE_SECONDS)
        except sdk.DaytonaTimeoutError as err:
            # A sandbox whose creation timed out goes on existing, and costing.
            if err.sandbox_id:
                with contextlib.suppress(sdk.DaytonaError):
                    await (await client.get(err.sandbox_id)).delete()
            raise

    async def _delete(self, sandbox: Any) -> None:
        with contextlib.suppress(_sdk().DaytonaError, OSError):
            await retried(lambda: sandbox.delete(timeout=CALL_SECONDS))

    def _labels(self, role: Role | None) -> dict[str, str]:
        labels = {"app": APP, "instance": self._instance}
        if role is not None:
            labels |= {"session": role.session_id, "run": role.run_id, "role": role.name, "depth": str(role.depth)}
        return labels

    def _connected(self) -> Any:
        with self._lock:
            self._refuse_if_closed()
            if self._client is None:
                daytona = self._settings.daytona
                if daytona.api_key is not None:
                    key, url = daytona.api_key.get_secret_value(), daytona.api_url
                else:
                    server = self._local_server()
                    key, url = server.key, server.url
                bypass_proxies_for_loopback()
                sdk = _sdk()
                # Everything is said here: the SDK would else take what it finds in a .env of the working folder.
                config = sdk.DaytonaConfig(api_key=key, api_url=url, target=daytona.target or "local")
                self._client = self.call(_made(lambda: sdk.AsyncDaytona(config)), CALL_SECONDS)
            return self._client

    def _local_server(self) -> local.LocalServer:
        with self._lock:
            self._refuse_if_closed()
            if self._server is None:
                self._server = local.start(self._settings.sandbox, trusted_code=self._trusted_code)
            return self._server

    def running_loop(self) -> asyncio.AbstractEventLoop:
        """The SDK's loop, on its own thread."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="fleet-daytona", daemon=True).start()
            return self._loop

    def _stop_loop(self) -> None:
        if self._loop is None:
            return
        with contextlib.suppress(FutureTimeoutError):
            asyncio.run_coroutine_threadsafe(_wound_up(self._client), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise SandboxUnavailable("these sandboxes were closed", "make a new Workbench")


class _Machine:
    """One sandbox with its guest, and the line to it. Identity is what it is hashed by."""

    def __init__(self, owner: DaytonaSandboxes, sandbox: Any) -> None:
        self._owner = owner
        self.sandbox = sandbox
        self.sandbox_id: str = sandbox.id
        self.link = KernelLink(self)
        self.home = ""
        self._handle: Any = None
        self._pty = f"fleet-{secrets.token_hex(6)}"
        self._to_send: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_open = True

    # --- Machine: from any thread ----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self._owner.running_loop().call_soon_threadsafe(self._to_send.put_nowait, data)

    def signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(SandboxError):
            self._owner.call(self.sandbox.process.exec(f"kill -{int(number)} {int(pid)}", timeout=5), 10)

    def put(self, path: str, data: bytes) -> None:
        self._owner.call(retried(lambda: self.sandbox.fs.upload_file(data, path, timeout=FILE_SECONDS)), FILE_SECONDS)

    def get(self, path: str) -> bytes:
        return self._owner.call(retried(lambda: self.sandbox.fs.download_file(path, FILE_SECONDS)), FILE_SECONDS)

    # --- life ------------------------------------------------------------------------------------------------------

    def label(self, labels: dict[str, str]) -> None:
        """Say whom the sandbox works for; on the loop, in the background."""

        async def work() -> None:
            with contextlib.suppress(_sdk().DaytonaError, OSError):
                await retried(lambda: self.sandbox.set_labels(labels))

        self._tasks.append(asyncio.ensure_future(work()))

    async def connect(self) -> None:
        """Upload the guest, open the terminal, start it."""
        sdk = _sdk()
        sandbox = self.sandbox
        self.home = await sandbox.get_work_dir()
        files = [
            sdk.FileUpload(source=text, destination=f"{self.home}/.fleet/fleet_guest/{name}")
            for name, text in _guest_files()
        ]
        await retried(lambda: sandbox.fs.upload_files(files, timeout=CALL_SECONDS))
        self._handle = await sandbox.process.create_pty_session(
            id=self._pty, on_data=self.link.feed, cwd=self.home, envs={"PS1": "", "TERM": "dumb"}
        )
        self._tasks += [asyncio.ensure_future(self._send_forever()), asyncio.ensure_future(self._watch())]
        self.send(f"PYTHONPATH={self.home}/.fleet exec python3 -u -m fleet_guest.guest\n".encode())

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self.link.close()
        self.link.lost("it was closed")
        loop = self._owner.running_loop()
        loop.call_soon_threadsafe(self._cancel_tasks)
        self._owner.forget(self)

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._handle is not None:
            self._tasks = [asyncio.ensure_future(self._handle.disconnect())]

    async def _send_forever(self) -> None:
        while True:
            data = await self._to_send.get()
            for at in range(0, len(data), MESSAGE_BYTES):
                # What is lost with a broken line is sent again after `hello`.
                with contextlib.suppress(_sdk().DaytonaError, OSError):
                    await self._handle.send_input(data[at : at + MESSAGE_BYTES])

    async def _watch(self) -> None:
        """Bring a broken line back; tell the link when the guest itself is gone."""
        while True:
            await self._handle.wait()
            if self._handle.exit_code is not None:
                self.link.lost(_ended(self._handle.exit_code))
                return
            if not await self._reconnect():
                self.link.lost("the line to it broke and could not be restored")
                return
            self.link.reconnected()

    async def _reconnect(self) -> bool:
        for pause in _RECONNECT_AFTER:
            await asyncio.sleep(pause)
            with contextlib.suppress(_sdk().DaytonaError, OSError, TimeoutError):
                self._handle = await self.sandbox.process.connect_pty_session(self._pty, self.link.feed)
                return True
        return False


async def retried(make: Callable[[], Awaitable[_T]], tries: int = 3) -> _T:
    """Await `make()`, again after a pause where the service was busy or the line broke. Only for what may run twice."""
    sdk = _sdk()
    for attempt in range(1, tries + 1):
        try:
            return await make()
        except sdk.DaytonaError as err:
            if attempt == tries or not _is_passing(err):
                raise
            await asyncio.sleep(_pause(err, attempt))
    raise AssertionError("unreachable")


def translated(err: BaseException) -> FleetError:
    """One of our errors, with the next step, for what the SDK raised."""
    sdk = _sdk()
    text = str(err)
    if isinstance(err, sdk.DaytonaAuthenticationError):
        return BadSettings("Daytona refused the key", "check DAYTONA_API_KEY and DAYTONA_API_URL")
    if isinstance(err, sdk.DaytonaForbiddenError):
        return BadSettings("the Daytona key lacks a permission", "give it sandbox create, write and delete")
    if "No space left" in text:
        return SandboxError("the sandbox's disk is full", "pass a smaller context, or free space where sandboxes live")
    if isinstance(err, sdk.DaytonaNotFoundError):
        return SandboxLost(f"Daytona does not know it (any more): {text}", "ask again")
    if "limit exceeded" in text or "quota" in text.lower():
        return SandboxUnavailable(
            f"Daytona's quota is used up: {text}", "delete sandboxes there, or lower budget.sandboxes"
        )
    if isinstance(err, sdk.DaytonaRateLimitError):
        return SandboxUnavailable("Daytona says there were too many requests", "wait a minute and ask again")
    if isinstance(err, TimeoutError | sdk.DaytonaTimeoutError):
        return SandboxUnavailable("the sandbox service did not answer in time", "ask again; `fleet doctor` checks it")
    return SandboxUnavailable(f"the sandbox service failed: {text}", "ask again; `fleet doctor` checks it")


def _is_passing(err: Any) -> bool:
    sdk = _sdk()
    if isinstance(err, sdk.DaytonaRateLimitError | sdk.DaytonaConnectionError):
        return True
    return err.status_code is not None and err.status_code >= 500 and "No space left" not in str(err)


def _pause(err: Any, attempt: int) -> float:
    for name, value in err.headers.items():
        # Daytona's headers carry a suffix: Retry-After-<throttler>.
        if name.lower().startswith("retry-after"):
            with contextlib.suppress(ValueError):
                return min(60.0, float(value))
    return random.uniform(0.1, 0.3) * 2**attempt


def _ended(exit_code: int) -> str:
    if exit_code in (137, -9):
        return "it was killed, most likely because it ran out of memory"
    return f"exit code {exit_code}"


def _guest_files() -> list[tuple[str, bytes]]:
    folder = Path(__file__).parent
    return [("__init__.py", b""), *((name, (folder / name).read_bytes()) for name in _GUEST)]


async def _wound_up(client: Any) -> None:
    """Cancel whatever else is on this loop, so that nobody waits for it, and close the client."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if client is not None:
        with contextlib.suppress(_sdk().DaytonaError, OSError):
            await client.close()


async def _made(make: Callable[[], _T]) -> _T:
    """Make something on the loop's thread."""
    return make()


def _sdk() -> Any:
    return importlib.import_module("daytona")
