"""One sandbox with a guest in it, and the line to that guest."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Callable
from typing import Any

from fleet_rlm_jupyter.domain.errors import FleetError, SandboxError
from fleet_rlm_jupyter.domain.events import ArtifactWritten, SandboxChanged, SandboxState
from fleet_rlm_jupyter.domain.ports import OnFact
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, CALM_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.files import SandboxPlace, digests_of
from fleet_rlm_jupyter.sandbox.kernel_link import KernelLink, guest_archive
from fleet_rlm_jupyter.sandbox.retries import retried
from fleet_rlm_jupyter.sandbox.service_errors import ended, sdk

FILE_SECONDS = 600
SIGNAL_SECONDS = 2
MESSAGE_BYTES = 32_000
REFRESH_SECONDS = 300

GUEST = ".fleet/fleet_guest.zip"

# A volume shows below /home/daytona; where that is not the working folder, as on some images, only there.
_LAYOUT = (
    'pwd; for d in "$PWD/volume" /home/daytona/volume; do [ -d "$d" ] && break; d="$PWD"; done; '
    'set -- "$d/memory" "$d/artifacts" "$d/buffers" "$d/meta"; mkdir -p "$@"; '
    '[ "$d" = "$PWD" ] || ln -s "$@" . 2>/dev/null; echo "$d"'  # what is there already stays
)
_RECONNECT_AFTER = (0.0, 0.1, 0.3, 1.0, 3.0, 5.0, 10.0)

GUEST_ENVS = {"PS1": "", "TERM": "dumb", "LOCALDAYTONA_WARM_MODULE": "fleet_guest.guest"}
"""The last has our local server fork the guest from a warm Python; elsewhere the shell starts it, as it is told to."""

START_GUEST = b"exec python3 -u -m fleet_guest.guest\n"


OnClose = Callable[["SandboxMachine"], SandboxState]


class SandboxMachine:
    """One sandbox with its guest, and the line to it. Identity is what it is hashed by.

    `on_close` decides what becomes of the sandbox when its user is done, and says it; the guest and the line end in any
    case. `changed` is what its user was last told of it, by `tell`; `why_dead` says why the guest ended unasked. `base`
    is the folder with the four roots of a volume: the volume where one is mounted, else the working folder.
    `is_beside`: its guest is one more in a sandbox where runs have theirs. `artifacts` has the digests of those that
    were told; None where nobody is told of them, since they are copied to a parent first. `may_have_written` is whether
    some must be looked for: its cells say so, and one that died could not. `is_deleted`: its sandbox ends with it.
    """

    def __init__(self, client: DaytonaClient, sandbox: Any, on_close: OnClose, sandbox_id: str = "") -> None:
        self._client = client
        self.on_close = on_close
        self.tell: OnFact | None = None
        self.changed: SandboxChanged | None = None
        self.sandbox = sandbox
        self.sandbox_id: str = sandbox_id or sandbox.id
        self.link = KernelLink(self)
        self.home = self.base = ""
        self.is_alive = True
        self.is_beside = self.is_deleted = False
        self.artifacts: dict[str, str] | None = None
        self.why_dead = ""
        self._has_written = False
        self._handle: Any = None
        self._pty = f"fleet-{secrets.token_hex(6)}"
        self._to_send: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._labelling: asyncio.Future[None] | None = None
        self._closing = threading.Lock()
        self._is_closed = False

    @property
    def has_volume(self) -> bool:
        return self.base != self.home

    @property
    def may_have_written(self) -> bool:
        return self._has_written or bool(self.why_dead)

    def send(self, data: bytes) -> None:
        self._client.post(self._to_send.put_nowait, data)

    def signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(SandboxError):
            command = f"kill -{int(number)} {int(pid)}"
            self._client.call(self.sandbox.process.exec(command, timeout=SIGNAL_SECONDS), SIGNAL_SECONDS)

    def run(self, command: str) -> tuple[int, str]:
        """(exit code, output) of a shell command beside the guest."""
        work = retried(lambda: self.sandbox.process.exec(command, timeout=FILE_SECONDS))
        done = self._client.call(work, FILE_SECONDS)
        return done.exit_code, done.result

    def put(self, path: str, data: bytes | str) -> None:
        """Upload `data`; a text is the path of a file here."""
        self._client.call(retried(lambda: self.sandbox.fs.upload_file(data, path, timeout=FILE_SECONDS)), FILE_SECONDS)

    def get(self, path: str, most: int) -> bytes:
        return self._client.call(self._download(path, most), FILE_SECONDS)

    async def _download(self, path: str, most: int) -> bytes:
        info = await retried(lambda: self.sandbox.fs.get_file_info(path))
        if info.size > most:
            # Its code chose the size; our memory is not for it to fill.
            raise ValueError(f"{info.size:,} bytes are too many to leave the sandbox: at most {most:,} may")
        return await retried(lambda: self.sandbox.fs.download_file(path, FILE_SECONDS)) or b""

    def wrote(self, paths: list[str]) -> None:
        """Tell of artifacts that are new or have other content than was told."""
        self._has_written = True
        if self.artifacts is None or self.tell is None:
            return
        try:
            found = digests_of(SandboxPlace(self._client, self.sandbox, self.base), paths)
        except FleetError:
            return  # the files are there all the same, and the cell has run
        for one in found:
            if self.artifacts.get(one.path) != one.sha256:
                self.artifacts[one.path] = one.sha256
                self.tell(ArtifactWritten(path=one.path, bytes=one.bytes, sha256=one.sha256))

    def label(self, labels: dict[str, str], after: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        """Say whom the sandbox works for, on the loop; `after` the ones before, which would else come back."""

        async def work() -> None:
            await asyncio.sleep(CALM_SECONDS)
            if after is not None:
                await asyncio.wait([after])
            if self.is_deleted:
                return
            with contextlib.suppress(sdk().DaytonaError, OSError):
                await retried(lambda: self.sandbox.set_labels({**self.sandbox.labels, **labels}))

        self._labelling = asyncio.ensure_future(work())
        return self._labelling

    async def connect(self) -> None:
        """Upload the guest, open the terminal, start it."""
        sandbox = self.sandbox
        done, _ = await asyncio.gather(
            retried(lambda: sandbox.process.exec(_LAYOUT, timeout=CALL_SECONDS)),
            retried(lambda: sandbox.fs.upload_file(guest_archive(), GUEST, timeout=CALL_SECONDS)),
        )
        if done.exit_code == 0:
            self.home, self.base = done.result.strip().splitlines()[-2:]
        else:
            self.home = self.base = await retried(sandbox.get_work_dir)
        self._handle, is_new = await retried(self._open_terminal)
        for work in (self._send_forever(), self._watch(), self._stay_active()):
            self._tasks.append(asyncio.ensure_future(work))
        self._start_guest()
        if not is_new:  # a guest may have begun to talk when nobody heard it
            self.link.reconnected()

    async def _open_terminal(self) -> tuple[Any, bool]:
        """The terminal, and whether it was made now."""
        envs = GUEST_ENVS | {"PYTHONPATH": f"{self.home}/{GUEST}"}
        process, hear = self.sandbox.process, self.link.feed
        try:
            return await process.create_pty_session(id=self._pty, on_data=hear, cwd=self.home, envs=envs), True
        except sdk().DaytonaConflictError:  # made by an earlier try, whose answer was lost
            return await process.connect_pty_session(self._pty, hear), False

    def _start_guest(self) -> None:
        self.send(START_GUEST)  # noise where a guest is on the terminal already

    def close(self) -> None:
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        self._end("it was closed")
        self.link.close()
        try:
            if self.why_dead:
                self._tell("lost", self.why_dead)
            self._tell(self.on_close(self))
        finally:
            self._client.post(self._hang_up)

    def _tell(self, state: SandboxState, reason: str = "") -> None:
        if self.tell is not None and self.changed is not None:
            news = {"state": state, "reason": reason or self.changed.reason}
            self.tell(self.changed.model_copy(update=news))

    def _end(self, why: str, *, is_line: bool = False) -> None:
        self.is_alive = False
        self.link.lost(why, is_line=is_line)

    def died(self, why: str, *, is_line: bool = False) -> None:
        """The guest is gone, unasked, or only the line to it; what is said first counts."""
        if self.is_alive:
            self.why_dead = why
            self._end(why, is_line=is_line)

    def _hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._handle is not None:
            self._tasks = [asyncio.ensure_future(self._end_guest())]

    async def _end_guest(self) -> None:
        if not self.is_deleted:
            # In a sandbox that lives on, nobody may stay connected: that would keep it from being idle.
            with contextlib.suppress(sdk().DaytonaError, OSError):
                await self._handle.kill()
        await self._handle.disconnect()

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
                self.died(ended(self._handle.exit_code))
                return
            if not await self._reconnect():
                self.died("the line to it broke and could not be restored", is_line=True)
                return
            if not self.link.pid:  # what was to start it may be lost with the line
                self._start_guest()
            self.link.reconnected()

    async def _reconnect(self) -> bool:
        await self._handle.disconnect()  # else the service may go on sending to it
        # On this machine the line breaks when the server ends, and then waiting helps nobody.
        for pause in _RECONNECT_AFTER if self._client.is_remote else _RECONNECT_AFTER[:4]:
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
