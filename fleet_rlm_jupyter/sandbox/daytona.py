"""Sandboxes through the real Daytona SDK: in Daytona's cloud when it is configured, else on the local server.

The one module that speaks async: the SDK lives on a loop thread of its own, everything else calls into it. The SDK
costs seconds to import, so that happens on a thread too, as soon as sandboxes may be needed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import secrets
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from fleet_rlm_jupyter.domain.errors import FleetError, SandboxError, SandboxUnavailable
from fleet_rlm_jupyter.domain.ports import Interpreter, Isolation, OnOutput, Role
from fleet_rlm_jupyter.sandbox import local
from fleet_rlm_jupyter.sandbox.interpreter import SandboxInterpreter
from fleet_rlm_jupyter.sandbox.kernel_link import KernelLink, guest_files
from fleet_rlm_jupyter.sandbox.loop_thread import LoopThread
from fleet_rlm_jupyter.sandbox.service_errors import ended, is_busy, pause_before_retry, sdk, translated
from fleet_rlm_jupyter.settings import Settings, bypass_proxies_for_loopback

_T = TypeVar("_T")

APP = "fleet-rlm-jupyter"
CREATE_SECONDS = 120
CALL_SECONDS = 60
FILE_SECONDS = 600
SIGNAL_SECONDS = 2
GRACE_SECONDS = 5
MESSAGE_BYTES = 32_000
MOST_FILE_BYTES = 1 << 30
AUTO_STOP_MINUTES = 30
REFRESH_SECONDS = 300
WARM = 4
"""Local sandboxes kept ready once the first is in use: starting one costs about a quarter of a second."""

_RECONNECT_AFTER = (0.0, 0.1, 0.3, 1.0, 3.0, 5.0, 10.0)


class DaytonaSandboxes:
    """`domain.ports.Sandboxes`. Thread-safe; everything it opened ends with `close`, or with the process.

    `trusted_code` says that only code of ours will run, which may do so without isolation.
    """

    def __init__(self, settings: Settings, *, trusted_code: bool = False) -> None:
        self._settings = settings
        self.is_remote = settings.daytona.api_key is not None
        self._trusted_code = trusted_code
        self._instance = secrets.token_hex(8)
        self._lock = threading.RLock()
        self._loop = LoopThread("fleet-daytona")
        self._client: Any = None
        self._server: local.LocalServer | None = None
        self._machines: set[_Machine] = set()
        self._deletions: set[Future[None]] = set()
        self._warm: list[Future[_Machine]] = []
        self._is_closed = False
        # Importing the SDK takes a second or more; the local server starts meanwhile.
        threading.Thread(target=sdk, name="fleet-import", daemon=True).start()
        atexit.register(self.close)

    @property
    def isolation(self) -> Isolation:
        if self.is_remote:
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
            machines = list(self._machines)
        atexit.unregister(self.close)
        for machine in machines:
            machine.close()
        if self._server is not None:
            self._server.stop()  # takes its sandboxes along
        elif self._client is not None:
            for deletion in list(self._deletions):
                with contextlib.suppress(FleetError, CancelledError, FutureTimeoutError):
                    deletion.result(CALL_SECONDS)
            with contextlib.suppress(FleetError):
                self.call(self._sweep(), CALL_SECONDS)
        self._loop.stop(_wound_up(self._client))

    def call(self, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """Await `work` on the SDK's loop, from any other thread. Raises our errors for the SDK's."""
        future = self._loop.submit(asyncio.wait_for(work, seconds))
        try:
            return future.result(seconds + GRACE_SECONDS)
        except CancelledError:
            raise SandboxUnavailable("the sandboxes were closed meanwhile", "make a new Workbench") from None
        except (sdk().DaytonaError, TimeoutError, OSError) as err:
            raise translated(err) from err
        finally:
            future.cancel()  # a Ctrl-C here must not leave the work going

    def post(self, act: Callable[..., object], *args: object) -> None:
        """Have `act` called on the SDK's loop; nothing happens once that has stopped."""
        self._loop.post(act, *args)

    def forget(self, machine: _Machine) -> None:
        """Delete a sandbox in the background: nobody waits for that."""
        with self._lock:
            self._machines.discard(machine)
            if self._is_closed and not self.is_remote:
                return
            with contextlib.suppress(SandboxUnavailable):
                deletion = self._loop.submit(_delete(machine.sandbox))
                self._deletions.add(deletion)
                deletion.add_done_callback(self._deletions.discard)

    def _machine(self, role: Role) -> _Machine:
        if self.is_remote:
            return self._create(role)
        self._local_server()
        machine = self._take_warm() or self._create(role)
        self.post(machine.label, self._labels(role))
        self._keep_warm(WARM)  # only now: the first sandbox is waited for, those after it are made while it works
        return machine

    def _keep_warm(self, most: int) -> None:
        with self._lock:
            while not self._is_closed and len(self._warm) < most:
                made: Future[_Machine] = Future()
                self._warm.append(made)
                threading.Thread(target=self._warm_up, args=(made,), name="fleet-warm", daemon=True).start()

    def _warm_up(self, made: Future[_Machine]) -> None:
        try:
            made.set_result(self._create(None))
        except FleetError as err:
            made.set_exception(err)

    def _take_warm(self) -> _Machine | None:
        while True:
            with self._lock:
                self._refuse_if_closed()
                waiting = self._warm.pop(0) if self._warm else None
            if waiting is None:
                return None
            with contextlib.suppress(FleetError, FutureTimeoutError):
                machine = waiting.result(CREATE_SECONDS)
                if machine.is_alive:
                    return machine
                machine.close()

    def _create(self, role: Role | None) -> _Machine:
        client = self._connected()
        sandbox = self.call(self._create_sandbox(client, role), CREATE_SECONDS + CALL_SECONDS)
        machine = _Machine(self, sandbox)
        with self._lock:
            self._machines.add(machine)
        try:
            self._refuse_if_closed()  # after it was added, or nobody would close it
            self.call(machine.connect(), CALL_SECONDS)
            machine.link.wait_ready(CALL_SECONDS)
        except BaseException:
            machine.close()
            raise
        return machine

    async def _create_sandbox(self, client: Any, role: Role | None) -> Any:
        params = sdk().CreateSandboxFromSnapshotParams(
            labels=self._labels(role),
            ephemeral=True,
            auto_stop_interval=AUTO_STOP_MINUTES,
            network_block_all=not self._settings.sandbox.network,
        )
        try:
            # Tried again only where the service refused: what broke in the middle may have made one.
            return await retried(lambda: client.create(params, timeout=CREATE_SECONDS), only_refused=True)
        except sdk().DaytonaTimeoutError as err:
            # A sandbox whose creation timed out goes on existing, and costing.
            made = getattr(err, "sandbox_id", None)
            if made:
                with contextlib.suppress(sdk().DaytonaError):
                    await _delete(await client.get(made))
            raise

    async def _sweep(self) -> None:
        """Delete what is left of ours: a sandbox may have been made by a call whose answer never came."""
        query = sdk().ListSandboxesQuery(labels=self._labels(None))
        async for sandbox in self._client.list(query):
            await _delete(sandbox)

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
                # Key and URL are said here: the SDK would else take what it finds in a .env of the working folder.
                target = daytona.target if self.is_remote else "local"
                config = sdk().DaytonaConfig(api_key=key, api_url=url, target=target)
                self._client = self.call(_made(lambda: sdk().AsyncDaytona(config)), CALL_SECONDS)
            return self._client

    def _local_server(self) -> local.LocalServer:
        with self._lock:
            self._refuse_if_closed()
            if self._server is None:
                self._server = local.start(self._settings.sandbox, trusted_code=self._trusted_code)
                self._keep_warm(1)
            return self._server

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
        self.is_alive = True
        self._handle: Any = None
        self._pty = f"fleet-{secrets.token_hex(6)}"
        self._to_send: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = threading.Lock()
        self._is_closed = False

    def send(self, data: bytes) -> None:
        self._owner.post(self._to_send.put_nowait, data)

    def signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(SandboxError):
            command = f"kill -{int(number)} {int(pid)}"
            self._owner.call(self.sandbox.process.exec(command, timeout=SIGNAL_SECONDS), SIGNAL_SECONDS)

    def put(self, path: str, data: bytes) -> None:
        self._owner.call(retried(lambda: self.sandbox.fs.upload_file(data, path, timeout=FILE_SECONDS)), FILE_SECONDS)

    def get(self, path: str) -> bytes:
        return self._owner.call(self._download(path), FILE_SECONDS)

    async def _download(self, path: str) -> bytes:
        info = await retried(lambda: self.sandbox.fs.get_file_info(path))
        if info.size > MOST_FILE_BYTES:
            # Its code chose the size; our memory is not for it to fill.
            raise sdk().DaytonaError(f"a value of {info.size:,} bytes is too large to leave the sandbox")
        return await retried(lambda: self.sandbox.fs.download_file(path, FILE_SECONDS)) or b""

    def label(self, labels: dict[str, str]) -> None:
        """Say whom the sandbox works for; on the loop, in the background."""

        async def work() -> None:
            with contextlib.suppress(sdk().DaytonaError, OSError):
                await retried(lambda: self.sandbox.set_labels(labels))

        self._tasks.append(asyncio.ensure_future(work()))

    async def connect(self) -> None:
        """Upload the guest, open the terminal, start it."""
        sandbox = self.sandbox
        self.home = await retried(sandbox.get_work_dir)
        folder = f"{self.home}/.fleet/fleet_guest"
        files = [sdk().FileUpload(source=text, destination=f"{folder}/{name}") for name, text in guest_files()]
        await retried(lambda: sandbox.fs.upload_files(files, timeout=CALL_SECONDS))
        self._handle = await sandbox.process.create_pty_session(
            id=self._pty, on_data=self.link.feed, cwd=self.home, envs={"PS1": "", "TERM": "dumb"}
        )
        for work in (self._send_forever(), self._watch(), self._stay_active()):
            self._tasks.append(asyncio.ensure_future(work))
        self.send(f"PYTHONPATH={self.home}/.fleet exec python3 -u -m fleet_guest.guest\n".encode())

    def close(self) -> None:
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        self._end("it was closed")
        self.link.close()
        self._owner.post(self._hang_up)
        self._owner.forget(self)

    def _end(self, why: str) -> None:
        self.is_alive = False
        self.link.lost(why)

    def _hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._handle is not None:
            self._tasks = [asyncio.ensure_future(self._handle.disconnect())]

    async def _send_forever(self) -> None:
        while True:
            data = await self._to_send.get()
            for at in range(0, len(data), MESSAGE_BYTES):
                # What is lost with a broken line is sent again after `hello`.
                with contextlib.suppress(sdk().DaytonaError, OSError):
                    await self._handle.send_input(data[at : at + MESSAGE_BYTES])

    async def _watch(self) -> None:
        """Bring a broken line back; tell the link when the guest itself is gone."""
        while True:
            await self._handle.wait()
            if self._handle.exit_code is not None:
                self._end(ended(self._handle.exit_code))
                return
            if not await self._reconnect():
                self._end("the line to it broke and could not be restored")
                return
            self.link.reconnected()

    async def _reconnect(self) -> bool:
        await self._handle.disconnect()  # else the service may go on sending to it
        # On this machine the line breaks when the server ends, and then waiting helps nobody.
        for pause in _RECONNECT_AFTER if self._owner.is_remote else _RECONNECT_AFTER[:4]:
            await asyncio.sleep(pause)
            try:
                self._handle = await self.sandbox.process.connect_pty_session(self._pty, self.link.feed)
                return True
            except sdk().DaytonaNotFoundError:
                return False
            except (sdk().DaytonaError, OSError, TimeoutError):
                continue
        return False

    async def _stay_active(self) -> None:
        """Waiting for a model counts as idle at Daytona, which stops what is idle."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            with contextlib.suppress(sdk().DaytonaError, OSError):
                await self.sandbox.refresh_activity(request_timeout=CALL_SECONDS)


async def retried(make: Callable[[], Awaitable[_T]], tries: int = 3, *, only_refused: bool = False) -> _T:
    """Await `make()`, again after a pause where the service was busy or the line broke: for what may run twice.

    `only_refused`: again only if the service said that it did not begin.
    """
    for attempt in range(1, tries + 1):
        try:
            return await make()
        except sdk().DaytonaError as err:
            pause = pause_before_retry(err, attempt)
            if attempt == tries or pause is None or (only_refused and not is_busy(err)):
                raise
            await asyncio.sleep(pause)
    raise AssertionError("unreachable")


async def _delete(sandbox: Any) -> None:
    with contextlib.suppress(sdk().DaytonaError, OSError):
        await retried(lambda: sandbox.delete(timeout=CALL_SECONDS))


async def _wound_up(client: Any) -> None:
    """Close the client, then cancel whatever else is on this loop, so that nobody waits for it."""
    if client is not None:
        # First: it waits for tasks of its own, and one that was cancelled would cancel this one too.
        with contextlib.suppress(sdk().DaytonaError, OSError):
            await client.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _made(make: Callable[[], _T]) -> _T:
    """Make something on the loop's thread."""
    return make()
