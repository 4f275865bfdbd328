"""Making and deleting sandboxes at the service so that none is left behind: journal, adoption, sweep."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fleet_rlm_jupyter.domain.errors import FleetError, SandboxLost, SandboxUnavailable, during
from fleet_rlm_jupyter.domain.ports import Allocation, Allocations
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, CALM_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.labels import KEPT_ROLE, labels_of
from fleet_rlm_jupyter.sandbox.retries import retried
from fleet_rlm_jupyter.sandbox.service_errors import has_begun, sdk
from fleet_rlm_jupyter.sandbox.snapshots import preflight
from fleet_rlm_jupyter.sandbox.specs import KEPT_MINUTES, Spec, params_of, refuse_impossible

CREATE_SECONDS = 120
INSTALL_SECONDS = 600
LOOK_SECONDS = 0.5
PRUNE_SECONDS = 600
MOST_GONE = 200
LATEST_SECONDS = 600
"""A creation that has not shown itself for so long did not happen."""


class Creation:
    """The only place where sandboxes are made and deleted. Thread-safe.

    A sandbox is written down before it is asked for, and bears the name of its journal entry: one whose answer never
    came is found by that name, which is sure at once, where the service's lists lag behind.
    """

    def __init__(self, client: DaytonaClient, allocations: Allocations | None) -> None:
        self._client = client
        self._allocations = allocations
        self.instance = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._is_checked = False
        self._entries: dict[str, str] = {}
        self._making: set[str] = set()
        self._unsure: set[str] = set()
        self._gone: deque[str] = deque(maxlen=MOST_GONE)

    @during("create")
    def make(self, spec: Spec) -> Any:
        """The SDK's sandbox, started, as `spec` and the settings say. Raises SandboxUnavailable or BadSettings."""
        settings = self._client.settings.sandbox
        refuse_impossible(settings, self._client.is_remote)
        client = self._client.get()
        if not self._is_checked:
            preflight(self._client, settings)
            self._is_checked = True

        def made(name: str) -> Coroutine[Any, Any, Any]:
            return self._create(client, params_of(spec, name, settings, self._client.is_remote))

        sandbox = self._written_down(spec.labels, made, CREATE_SECONDS + CALL_SECONDS)
        try:
            self._set_up(sandbox)
        except BaseException:
            self.delete(sandbox)
            raise
        return sandbox

    @during("fork")
    def fork(self, parent: Any, labels: dict[str, str]) -> Any:
        """An ephemeral copy of a running sandbox; most kinds refuse. Raises SandboxError."""
        return self._written_down(labels, lambda name: self._forked(parent, name, labels), CREATE_SECONDS)

    def delete(self, sandbox: Any) -> None:
        """Delete in the background: nobody waits for that."""
        with contextlib.suppress(SandboxUnavailable):
            self._client.submit(self._delete_soon(sandbox))

    @during("clean-up")
    def end(self, sandbox: Any) -> None:
        """Delete it now. Raises SandboxUnavailable if the service does not; what is written down is swept later."""
        with contextlib.suppress(SandboxLost):  # it is gone already
            self._client.call(retried(lambda: sandbox.delete(timeout=CALL_SECONDS)), CALL_SECONDS)
        self._ended(sandbox.id)

    @during("clean-up")
    def end_id(self, sandbox_id: str) -> None:
        """The same for one that may or may not exist any more."""
        client = self._client.get()
        try:
            sandbox = self._client.call(retried(lambda: client.get(sandbox_id)), CALL_SECONDS)
        except SandboxLost:  # not found
            self._ended(sandbox_id)
        else:
            self.end(sandbox)

    def has_ended(self, sandbox_id: str) -> bool:
        """Whether it was among the last that were deleted here."""
        return sandbox_id in self._gone

    def delete_id(self, sandbox_id: str) -> None:
        """Delete, in the background, one that may or may not exist any more."""
        with contextlib.suppress(SandboxUnavailable):
            self._client.submit(self._delete_by_name(self._client.made, sandbox_id))

    @during("clean-up")
    def is_gone(self, sandbox_id: str, seconds: float) -> bool:
        """Whether the service does not know it any more; asks again for so long. Raises SandboxUnavailable."""
        client, deadline = self._client.get(), time.monotonic() + seconds
        while True:
            try:
                sandbox = self._client.call(retried(lambda: client.get(sandbox_id)), CALL_SECONDS)
            except SandboxLost:  # not found
                return True
            if str(getattr(sandbox.state, "value", sandbox.state)).lower() == "destroyed":
                return True
            if time.monotonic() > deadline:
                return False
            self._client.wait(LOOK_SECONDS)

    def inherit(self, session_id: str) -> str:
        """The id of the session's sandbox if a process that is gone left it, and exactly one; from now on ours."""
        if self._allocations is None or not self._client.is_remote:
            return ""
        wanted = {"role": KEPT_ROLE, "session": session_id}
        found = [one for one in self._allocations.left() if one.sandbox_id and wanted.items() <= one.labels.items()]
        if len(found) != 1:
            return ""
        (one,) = found
        entry = self._allocations.begin({**one.labels, "instance": self.instance})
        self._allocations.made(entry, one.sandbox_id)
        self._allocations.ended(one.allocation_id)
        with self._lock:
            self._entries[one.sandbox_id] = entry
        return one.sandbox_id

    def sweep(self) -> None:
        """Start deleting what is left of ours, in the background: of this process, and of those that are gone.

        Only what our journal names is touched, never what merely looks like ours: others use the same account.
        """
        left = self._allocations.left() if self._allocations else []
        with contextlib.suppress(SandboxUnavailable):
            self._client.submit(self._sweep(left))

    @during("clean-up")
    def sweep_now(self) -> int:
        """The same, waited for; how many of what was left are surely gone. Raises SandboxUnavailable."""
        self._client.get()
        left = self._allocations.left() if self._allocations else []
        return self._client.call(self._sweep(left), PRUNE_SECONDS)

    async def delete_all(self) -> None:
        """Delete every sandbox of this process, those of whose making nobody was told included."""
        client = self._client.made
        with self._lock:
            names = [*self._making, *self._unsure, *self._entries]
        await asyncio.gather(*[self._delete_by_name(client, name) for name in names])
        query = sdk().ListSandboxesQuery(labels=labels_of(self.instance))
        with contextlib.suppress(sdk().DaytonaError, OSError):
            async for sandbox in client.list(query):
                await self._delete(sandbox)

    def _written_down(
        self, labels: dict[str, str], make: Callable[[str], Coroutine[Any, Any, Any]], seconds: float
    ) -> Any:
        """The sandbox that `make` asks for by the name it is given; journalled before, and crossed out if refused."""
        # Nothing to write down for the local server: it and all its sandboxes end with this process.
        journal = self._allocations if self._client.is_remote else None
        entry = journal.begin(labels) if journal else f"a-{secrets.token_hex(10)}"
        name = f"fleet-{entry}"
        with self._lock:
            self._making.add(name)
        try:
            sandbox = self._client.call(make(name), seconds)
            with self._lock:
                self._entries[sandbox.id] = entry
        except FleetError as err:
            if has_begun(err.__cause__):
                with self._lock:
                    self._unsure.add(name)
            elif journal:
                journal.ended(entry)
            raise
        finally:
            with self._lock:
                self._making.discard(name)
        if journal:
            journal.made(entry, sandbox.id)
        return sandbox

    async def _create(self, client: Any, params: Any) -> Any:
        known = sdk()
        try:
            # Tried again only where the service refused: what broke in the middle may have made one.
            return await retried(lambda: client.create(params, timeout=CREATE_SECONDS), only_refused=True)
        except known.DaytonaTimeoutError as err:
            # A sandbox whose creation timed out goes on existing, and costing.
            made = getattr(err, "sandbox_id", None)
            await self._delete_by_name(client, made or params.name)
            raise
        except known.DaytonaError as err:
            if has_begun(err):
                with contextlib.suppress(known.DaytonaError, OSError):
                    return await self._adopted(client, params.name)
                await self._delete_by_name(client, params.name)
            raise

    async def _forked(self, parent: Any, name: str, labels: dict[str, str]) -> Any:
        minutes = self._client.settings.sandbox.auto_stop_minutes
        sandbox = await retried(lambda: parent.fork(name, timeout=CREATE_SECONDS), only_refused=True)
        # A fork has its parent's labels and life; it is a child's, and ends with it.
        await asyncio.gather(
            retried(lambda: sandbox.set_labels(labels)),
            retried(lambda: sandbox.set_auto_delete_interval(0)),
            retried(lambda: sandbox.set_autostop_interval(minutes)),
        )
        return sandbox

    async def _adopted(self, client: Any, name: str) -> Any:
        """The sandbox of that name, if the call that broke made it after all."""
        sandbox = await retried(lambda: client.get(name))
        await sandbox.wait_for_sandbox_start(timeout=CREATE_SECONDS)
        return sandbox

    def _set_up(self, sandbox: Any) -> None:
        settings = self._client.settings.sandbox
        if not settings.packages:
            return
        command = "python3 -m pip install --quiet --disable-pip-version-check " + shlex.join(settings.packages)
        work = sandbox.process.exec(command, timeout=INSTALL_SECONDS)
        done = self._client.call(work, INSTALL_SECONDS + CALL_SECONDS)
        if done.exit_code != 0:
            raise SandboxUnavailable(
                f"the packages cannot be installed: {done.result.strip()[-500:]}", "check sandbox.packages"
            )
        if not settings.network:
            closing = {"network_allow_list": ",".join(settings.allow_list)} if settings.allow_list else None
            closing = closing or {"network_block_all": True}
            work = retried(lambda: sandbox.update_network_settings(**closing, request_timeout=CALL_SECONDS))
            self._client.call(work, CALL_SECONDS)

    async def _delete_soon(self, sandbox: Any) -> None:
        await asyncio.sleep(CALM_SECONDS)
        await self._delete(sandbox)

    async def _delete(self, sandbox: Any) -> None:
        if await _is_deleted(lambda: retried(lambda: sandbox.delete(timeout=CALL_SECONDS))):
            await asyncio.to_thread(self._ended, sandbox.id)

    async def _delete_by_name(self, client: Any, id_or_name: str) -> bool:
        """Whether it is surely gone; what is not stays written down, and the next sweep tries again."""

        async def work() -> None:
            sandbox = await retried(lambda: client.get(id_or_name))
            await retried(lambda: sandbox.delete(timeout=CALL_SECONDS))

        is_gone = await _is_deleted(work)
        if is_gone:
            await asyncio.to_thread(self._ended, id_or_name)
        return is_gone

    async def _sweep(self, left: list[Allocation]) -> int:
        client, now, count = self._client.made, time.time(), 0
        for one in left:
            age = now - one.created_at
            if one.labels.get("role") == KEPT_ROLE and age < KEPT_MINUTES * 60:
                continue  # whoever takes up that session again finds it there
            is_gone = await self._delete_by_name(client, one.sandbox_id or f"fleet-{one.allocation_id}")
            # One that was asked for in the last moment of a process may yet appear.
            if is_gone and (one.sandbox_id or age > LATEST_SECONDS):
                assert self._allocations is not None
                await asyncio.to_thread(self._allocations.ended, one.allocation_id)
                count += 1
        with self._lock:
            unsure = list(self._unsure)
        for name in unsure:
            count += await self._delete_by_name(client, name)
        return count

    def _ended(self, id_or_name: str) -> None:
        with self._lock:
            self._unsure.discard(id_or_name)
            self._gone.append(id_or_name)
            entry = self._entries.pop(id_or_name, "")
        if entry and self._allocations is not None and self._client.is_remote:
            self._allocations.ended(entry)


async def _is_deleted(delete: Callable[[], Awaitable[None]]) -> bool:
    try:
        await delete()
    except sdk().DaytonaNotFoundError:
        return True
    except (sdk().DaytonaError, OSError):
        return False
    return True
