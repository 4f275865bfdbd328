"""One sandbox per session: kept over its turns, alone while idle so that it can stop, found again or made anew."""

from __future__ import annotations

import threading
from asyncio import Future
from dataclasses import dataclass
from typing import Any

from fleet_rlm_jupyter.domain.errors import SandboxError, SandboxLost, SandboxUnavailable, during
from fleet_rlm_jupyter.domain.events import SandboxChanged, SandboxState
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.creation import Creation
from fleet_rlm_jupyter.sandbox.labels import KEPT_ROLE, labels_of
from fleet_rlm_jupyter.sandbox.machine import SandboxMachine
from fleet_rlm_jupyter.sandbox.pool import Pool
from fleet_rlm_jupyter.sandbox.retries import retried
from fleet_rlm_jupyter.sandbox.specs import Mount, Spec
from fleet_rlm_jupyter.sandbox.states import started
from fleet_rlm_jupyter.sandbox.volumes import Volumes


@dataclass(slots=True)
class _Kept:
    """A session's sandbox; no id before it was made. `mount` is None where it has no volume."""

    sandbox_id: str = ""
    mount: Mount | None = None
    base: str = ""
    is_busy: bool = False
    labelling: Future[None] | None = None


class SessionSandboxes:
    """Thread-safe. Files in a session's sandbox stay from turn to turn, variables do not: each turn has a new REPL.

    The user's own cells have one beside those, whose variables stay.
    """

    def __init__(self, client: DaytonaClient, creation: Creation, pool: Pool, volumes: Volumes) -> None:
        self._client = client
        self._creation = creation
        self._pool = pool
        self._volumes = volumes
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def take(self, role: Role) -> tuple[SandboxMachine, SandboxChanged]:
        """The session's sandbox with a new guest, and how it came to be had.

        If another run of the session has it, an ephemeral one with the same volume. Whoever takes closes.
        """
        with self._lock:
            kept = self._kept.setdefault(role.session_id, _Kept())
            was_busy, kept.is_busy = kept.is_busy, True
        if was_busy and role.is_beside and kept.sandbox_id:
            machine, changed = self._again(kept, role)
            self._leave_beside(machine)
            return machine, changed
        if was_busy:
            return self._beside(role)
        try:
            machine, changed = self._taken(kept, role)
        except BaseException:
            kept.is_busy = False
            raise
        kept.base = machine.base
        if role.is_beside:
            self._leave_beside(machine)
            kept.is_busy = False
        else:
            machine.on_close = lambda closed: self._give_back(kept, closed)
        return machine, changed

    def where(self, session_id: str) -> tuple[str, str]:
        """(id of the session's sandbox, folder of its files there), as far as this process knows; else empty."""
        kept = self._kept.get(session_id)
        return ("", "") if kept is None else (kept.sandbox_id, kept.base)

    def end(self, session_id: str) -> bool:
        """End its sandbox, if this process has it or one that is gone left it; whether there was one.

        Whoever works in it is told that it is lost. Raises SandboxUnavailable.
        """
        with self._lock:
            kept = self._kept.pop(session_id, _Kept())
        sandbox_id = kept.sandbox_id or self._creation.inherit(session_id)
        if not sandbox_id or not self._client.is_there:
            return False
        self._pool.lose(sandbox_id, "its session was deleted")
        self._creation.end_id(sandbox_id)
        return True

    def _leave_beside(self, machine: SandboxMachine) -> None:
        machine.is_beside, machine.on_close = True, self._pool.forget

    def _give_back(self, kept: _Kept, machine: SandboxMachine) -> SandboxState:
        kept.is_busy = False
        return self._pool.forget(machine)

    def _taken(self, kept: _Kept, role: Role) -> tuple[SandboxMachine, SandboxChanged]:
        lost = ""
        if not kept.sandbox_id:
            kept.sandbox_id = self._creation.inherit(role.session_id)
        if kept.sandbox_id:
            try:
                return self._again(kept, role)
            except SandboxLost as err:
                self._client.refuse_if_closed()
                lost = err.text
                self._creation.delete_id(kept.sandbox_id)
                kept.sandbox_id = ""
        kept.mount, missing = self._mount(role)
        try:
            machine = self._pool.make(Spec(self._labels(role), is_kept=True, mount=kept.mount))
        except SandboxUnavailable as err:
            if kept.mount is None or self._client.is_remote:
                raise
            # Here a volume is a folder, which may belong to a user that this server cannot be.
            self._client.refuse_if_closed()
            kept.mount, missing = None, f"no volume: {err.text}"
            machine = self._pool.make(Spec(self._labels(role), is_kept=True))
        kept.sandbox_id = machine.sandbox_id
        why = f"the one before is gone: {lost}" if lost else missing
        return machine, self._changed(machine, "recreated" if lost else "ready", why, kept.mount)

    def _again(self, kept: _Kept, role: Role) -> tuple[SandboxMachine, SandboxChanged]:
        sandbox, why = self._found(kept)
        try:
            machine = self._pool.connect(sandbox)
        except SandboxLost:
            raise
        except SandboxError:
            # The service failed on the way, or the sandbox did: that one fails again while the service answers.
            sandbox, late = self._found(kept)
            machine, why = self._connected(sandbox), why or late
        if sandbox.volumes and kept.mount is None:
            first = sandbox.volumes[0]
            kept.mount = Mount(first.volume_id, self._volumes.name, first.subpath or "", first.mount_path)
        self._client.post(self._label, kept, machine, self._labels(role))
        return machine, self._changed(machine, "resumed" if why else "reused", why, kept.mount)

    @during("resume")
    def _found(self, kept: _Kept) -> tuple[Any, str]:
        """The sandbox, running, and what it had come to; a service that cannot be reached is told and lost nothing."""
        client = self._client.get()
        sandbox = self._client.call(retried(lambda: client.get(kept.sandbox_id)), CALL_SECONDS)
        return sandbox, started(self._client, sandbox)

    def _connected(self, sandbox: Any) -> SandboxMachine:
        try:
            return self._pool.connect(sandbox)
        except SandboxError as err:
            raise SandboxLost(f"no Python starts in it any more: {err.text}", "ask again") from err

    def _label(self, kept: _Kept, machine: SandboxMachine, labels: dict[str, str]) -> None:
        """On the loop, in the background: the run may be over sooner."""
        kept.labelling = machine.label(labels, kept.labelling)

    def _beside(self, role: Role) -> tuple[SandboxMachine, SandboxChanged]:
        mount, _ = self._mount(role)
        machine = self._pool.make(Spec(labels_of(self._creation.instance, role), mount=mount))
        changed = self._changed(machine, "ready", "another run of the session has its sandbox", mount)
        return machine, changed.model_copy(update={"is_degraded": True})

    def _mount(self, role: Role) -> tuple[Mount | None, str]:
        """The session's folder; None and why where there is none: files that do not last are better than no answer."""
        try:
            return self._volumes.of_session(role.session_id), ""
        except SandboxUnavailable as err:
            self._client.refuse_if_closed()
            return None, f"no volume: {err.text}"

    def _changed(
        self, machine: SandboxMachine, state: SandboxState, reason: str, mount: Mount | None
    ) -> SandboxChanged:
        return SandboxChanged(
            sandbox_id=machine.sandbox_id,
            state=state,
            isolation=self._client.isolation.label,
            reason=reason,
            is_degraded=state == "recreated" or (self._volumes.is_wanted and mount is None),
            volume=mount.volume_name if mount else "",
            subpath=mount.subpath if mount else "",
        )

    def _labels(self, role: Role) -> dict[str, str]:
        return {**labels_of(self._creation.instance, role), "role": KEPT_ROLE}
