"""Sandboxes with a guest in them: made, kept warm before they are asked for, and all ended at the end."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from fleet_rlm_jupyter.domain.errors import FleetError, during
from fleet_rlm_jupyter.domain.events import SandboxState
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, CALM_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.creation import CREATE_SECONDS, Creation
from fleet_rlm_jupyter.sandbox.labels import labels_of
from fleet_rlm_jupyter.sandbox.machine import SandboxMachine
from fleet_rlm_jupyter.sandbox.specs import Spec

LOCAL_WARM = 4
"""Local sandboxes kept ready once the first is in use: they cost little, and starting one takes a moment."""


class Pool:
    """Thread-safe. A machine that nobody took up by setting its `on_close` is deleted when it closes."""

    def __init__(self, client: DaytonaClient, creation: Creation) -> None:
        self._client = client
        self._creation = creation
        self._lock = threading.RLock()
        self._machines: set[SandboxMachine] = set()
        self._warm: list[Future[SandboxMachine]] = []
        self._is_filling = False
        wanted = client.settings.sandbox.warm
        self._most = (0 if client.is_remote else LOCAL_WARM) if wanted is None else wanted

    def make(self, spec: Spec) -> SandboxMachine:
        """A new sandbox with its guest ready."""
        sandbox = self._creation.make(spec)
        try:
            return self.connect(sandbox)
        except BaseException:
            self._creation.delete(sandbox)
            raise

    @during("connect")
    def connect(self, sandbox: Any, sandbox_id: str = "") -> SandboxMachine:
        """A new guest, ready, in a sandbox that is started; `sandbox_id` is what it is called where one has several."""
        machine = SandboxMachine(self._client, sandbox, self.delete, sandbox_id)
        with self._lock:
            self._machines.add(machine)
        try:
            self._client.refuse_if_closed()  # after it was added, or nobody would close it
            self._client.call(machine.connect(), CALL_SECONDS)
            machine.link.wait_ready(CALL_SECONDS)
        except BaseException:
            machine.on_close = self.forget
            machine.close()
            raise
        return machine

    def find(self, sandbox_id: str) -> SandboxMachine | None:
        """The machine of that id that a run has, while its guest lives."""
        with self._lock:
            machines = [one for one in self._machines if one.sandbox_id == sandbox_id and not one.is_beside]
            return next((one for one in machines if one.is_alive), None)

    def lose(self, sandbox_id: str, why: str) -> None:
        """Have every guest in that sandbox lost, which is being ended: its cells end at once."""
        with self._lock:
            machines = [one for one in self._machines if one.sandbox.id == sandbox_id]
        for machine in machines:
            machine.died(why)

    def delete(self, machine: SandboxMachine) -> SandboxState:
        """What becomes of a machine that is closed and belongs to nobody."""
        self.forget(machine)
        machine.is_deleted = True
        if self._client.is_remote or not self._client.is_closed:  # the local server takes its sandboxes along
            self._creation.delete(machine.sandbox)
        return "deleted"

    def forget(self, machine: SandboxMachine) -> SandboxState:
        """The same, but the sandbox stays."""
        with self._lock:
            self._machines.discard(machine)
        return "detached"

    def keep(self) -> None:
        """Have as many as the settings say made ready in the background, soon."""
        with self._lock:
            if self._client.is_closed or self._is_filling or len(self._warm) >= self._most:
                return
            self._is_filling = True
        filling = threading.Timer(CALM_SECONDS, self._fill)
        filling.daemon = True
        filling.start()

    def _fill(self) -> None:
        with self._lock:
            self._is_filling = False
            while not self._client.is_closed and len(self._warm) < self._most:
                made: Future[SandboxMachine] = Future()
                self._warm.append(made)
                threading.Thread(target=self._warm_up, args=(made,), name="fleet-warm", daemon=True).start()

    def take(self) -> SandboxMachine | None:
        """One that is ready, or will be before a new one could; None if there is none."""
        while True:
            with self._lock:
                self._client.refuse_if_closed()
                waiting = self._warm.pop(0) if self._warm else None
            if waiting is None:
                return None
            with contextlib.suppress(FleetError, FutureTimeoutError):
                machine = waiting.result(CREATE_SECONDS)
                if machine.is_alive:
                    return machine
                machine.close()

    def close(self) -> None:
        """Close every machine."""
        with self._lock:
            machines = list(self._machines)
        for machine in machines:
            machine.close()

    def _warm_up(self, made: Future[SandboxMachine]) -> None:
        try:
            made.set_result(self.make(Spec(labels_of(self._creation.instance))))
        except FleetError as err:
            made.set_exception(err)
