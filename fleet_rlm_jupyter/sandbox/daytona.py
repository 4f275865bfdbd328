"""Sandboxes through the real Daytona SDK, ready before they are asked for where that costs nothing."""

from __future__ import annotations

import atexit
import contextlib
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from fleet_rlm_jupyter.domain.errors import FleetError
from fleet_rlm_jupyter.domain.ports import Allocations, Interpreter, Isolation, OnOutput, Role
from fleet_rlm_jupyter.sandbox.client import CALL_SECONDS, DaytonaClient
from fleet_rlm_jupyter.sandbox.creation import CREATE_SECONDS, Creation
from fleet_rlm_jupyter.sandbox.interpreter import SandboxInterpreter
from fleet_rlm_jupyter.sandbox.labels import labels_of
from fleet_rlm_jupyter.sandbox.machine import SandboxMachine
from fleet_rlm_jupyter.sandbox.specs import Spec
from fleet_rlm_jupyter.settings import Settings

SWEEP_SECONDS = 600
LOCAL_WARM = 4
"""Local sandboxes kept ready once the first is in use: starting one costs about a quarter of a second."""


class DaytonaSandboxes:
    """`domain.ports.Sandboxes`. Thread-safe; everything it opened ends with `close`, or with the process.

    `trusted_code` says that only code of ours will run, which may do so without isolation.
    """

    def __init__(
        self, settings: Settings, allocations: Allocations | None = None, *, trusted_code: bool = False
    ) -> None:
        self._settings = settings
        self.client = DaytonaClient(settings, trusted_code=trusted_code)
        self._creation = Creation(self.client, allocations)
        self._lock = threading.RLock()
        self._machines: set[SandboxMachine] = set()
        self._warm: list[Future[SandboxMachine]] = []
        self._sweeper: threading.Timer | None = None
        atexit.register(self.close)

    @property
    def isolation(self) -> Isolation:
        isolation = self.client.isolation
        self._keep_warm(1)
        return isolation

    def open(self, role: Role, on_output: OnOutput | None = None) -> Interpreter:
        """An interpreter whose sandbox is made when it starts."""
        return SandboxInterpreter(lambda: self._machine(role), self._settings.sandbox, on_output)

    def child(self, parent_id: str, role: Role, on_output: OnOutput | None = None) -> Interpreter:
        """A clean sandbox for a child: it sees nothing of its parent's but what it is given."""
        return self.open(role, on_output)

    def close(self) -> None:
        """Delete every sandbox and stop the local server; harmless twice."""
        if not self.client.begin_closing():
            return
        atexit.unregister(self.close)
        with self._lock:
            machines = list(self._machines)
            if self._sweeper is not None:
                self._sweeper.cancel()
        for machine in machines:
            machine.close()
        self.client.close(self._creation.delete_all())

    def _machine(self, role: Role) -> SandboxMachine:
        if not self.client.is_remote:
            self.client.server()
            self._keep_warm(1)  # starts while the SDK is imported
        self.client.get()
        self._sweep_now_and_then()
        labels = labels_of(self._creation.instance, role)
        machine = self._take_warm()
        if machine is None:
            machine = self._create(Spec(labels))
        else:
            self.client.post(machine.label, labels)
        self._keep_warm()  # only now: the first sandbox is waited for, those after it are made while it works
        return machine

    def _create(self, spec: Spec) -> SandboxMachine:
        machine = SandboxMachine(self.client, self._creation.make(spec), self._deleted)
        with self._lock:
            self._machines.add(machine)
        try:
            self.client.refuse_if_closed()  # after it was added, or nobody would close it
            self.client.call(machine.connect(), CALL_SECONDS)
            machine.link.wait_ready(CALL_SECONDS)
        except BaseException:
            machine.close()
            raise
        return machine

    def _deleted(self, machine: SandboxMachine) -> None:
        with self._lock:
            self._machines.discard(machine)
        if self.client.is_remote or not self.client.is_closed:  # the local server takes its sandboxes along
            self._creation.delete(machine.sandbox)

    def _keep_warm(self, most: int | None = None) -> None:
        wanted = self._settings.sandbox.warm
        if wanted is None:
            wanted = 0 if self.client.is_remote else LOCAL_WARM
        most = wanted if most is None else min(most, wanted)
        with self._lock:
            while not self.client.is_closed and len(self._warm) < most:
                made: Future[SandboxMachine] = Future()
                self._warm.append(made)
                threading.Thread(target=self._warm_up, args=(made,), name="fleet-warm", daemon=True).start()

    def _warm_up(self, made: Future[SandboxMachine]) -> None:
        try:
            made.set_result(self._create(Spec(labels_of(self._creation.instance))))
        except FleetError as err:
            made.set_exception(err)

    def _take_warm(self) -> SandboxMachine | None:
        while True:
            with self._lock:
                self.client.refuse_if_closed()
                waiting = self._warm.pop(0) if self._warm else None
            if waiting is None:
                return None
            with contextlib.suppress(FleetError, FutureTimeoutError):
                machine = waiting.result(CREATE_SECONDS)
                if machine.is_alive:
                    return machine
                machine.close()

    def _sweep_now_and_then(self) -> None:
        """At the first sandbox and every ten minutes from then on. The local server's sandboxes end with it."""
        with self._lock:
            if self._sweeper is not None or not self.client.is_remote or self.client.is_closed:
                return
            self._sweeper = threading.Timer(SWEEP_SECONDS, self._sweep_again)
            self._sweeper.daemon = True
            self._sweeper.start()
        self._creation.sweep()

    def _sweep_again(self) -> None:
        with self._lock:
            self._sweeper = None
        self._sweep_now_and_then()
