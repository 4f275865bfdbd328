"""Sandboxes through the real Daytona SDK: what the engine asks for, put together from the modules beside this one."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable

from fleet_rlm_jupyter.domain.errors import during
from fleet_rlm_jupyter.domain.events import SandboxChanged
from fleet_rlm_jupyter.domain.ports import (
    Allocations,
    Files,
    Interpreter,
    Isolation,
    OnFact,
    OnOutput,
    PullableInterpreter,
    Role,
)
from fleet_rlm_jupyter.domain.shown import LiveSandbox, Size
from fleet_rlm_jupyter.sandbox.browse import Browse
from fleet_rlm_jupyter.sandbox.children import Children
from fleet_rlm_jupyter.sandbox.client import DaytonaClient
from fleet_rlm_jupyter.sandbox.creation import Creation
from fleet_rlm_jupyter.sandbox.files import VolumeFiles
from fleet_rlm_jupyter.sandbox.interpreter import SandboxInterpreter
from fleet_rlm_jupyter.sandbox.labels import labels_of
from fleet_rlm_jupyter.sandbox.machine import SandboxMachine
from fleet_rlm_jupyter.sandbox.pool import Pool
from fleet_rlm_jupyter.sandbox.roll import Roll
from fleet_rlm_jupyter.sandbox.sessions import SessionSandboxes
from fleet_rlm_jupyter.sandbox.specs import Spec
from fleet_rlm_jupyter.sandbox.volumes import Volumes, folder_of
from fleet_rlm_jupyter.sandbox.workspaces import furnished
from fleet_rlm_jupyter.settings import Settings

SWEEP_SECONDS = 600


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
        self._pool = Pool(self.client, self._creation)
        self._volumes = Volumes(self.client)
        self._sessions = SessionSandboxes(self.client, self._creation, self._pool, self._volumes)
        self._children = Children(self.client, self._creation, self._pool)
        self._browse = Browse(self.client, self._creation, self._sessions, self._volumes)
        self._roll = Roll(self.client, self._creation, self._pool)
        self._lock = threading.Lock()
        self._sweeper: threading.Timer | None = None
        atexit.register(self.close)

    @property
    def isolation(self) -> Isolation:
        return self.client.isolation

    def open(self, role: Role, on_output: OnOutput | None = None, on_fact: OnFact | None = None) -> PullableInterpreter:
        """An interpreter whose sandbox is had when it starts: the session's for a role that is kept, else a new one."""

        def take() -> tuple[SandboxMachine, SandboxChanged]:
            machine, changed = self._root(role)
            machine.artifacts = {}
            return machine, changed

        return self._interpreter(take, role, on_output, on_fact)

    def child(
        self, parent_id: str, role: Role, on_output: OnOutput | None = None, on_fact: OnFact | None = None
    ) -> Interpreter:
        """An interpreter in a sandbox as `sandbox.children` says; what it leaves in artifacts/ goes to its parent."""
        return self._interpreter(lambda: self._children.take(parent_id, role), role, on_output, on_fact)

    def files(self, session_id: str) -> Files:
        folder_of(session_id)  # a bad id is refused now
        return VolumeFiles(lambda make: self._browse.place(session_id, make))

    def is_gone(self, sandbox_id: str, seconds: float) -> bool:
        return self._creation.is_gone(sandbox_id, seconds)

    def list(self) -> list[LiveSandbox]:
        return self._roll.list()

    def get(self, sandbox_id: str) -> LiveSandbox:
        return self._roll.get(sandbox_id)

    def stop(self, sandbox_id: str) -> None:
        self._roll.stop(sandbox_id)

    def archive(self, sandbox_id: str) -> None:
        self._roll.archive(sandbox_id)

    def resize(self, sandbox_id: str, size: Size) -> None:
        self._roll.resize(sandbox_id, size)

    def start(self, sandbox_id: str) -> None:
        self._roll.start(sandbox_id)

    def end_session(self, session_id: str) -> bool:
        return self._sessions.end(session_id)

    def prune(self) -> int:
        return self._roll.prune()

    def close(self) -> None:
        """Delete every sandbox and stop the local server; harmless twice. What is on volumes stays."""
        if not self.client.begin_closing():
            return
        atexit.unregister(self.close)
        with self._lock:
            if self._sweeper is not None:
                self._sweeper.cancel()
        self._pool.close()
        self.client.close(self._creation.delete_all())

    def _interpreter(
        self,
        take: Callable[[], tuple[SandboxMachine, SandboxChanged]],
        role: Role,
        on_output: OnOutput | None,
        on_fact: OnFact | None,
    ) -> PullableInterpreter:
        def opened() -> SandboxMachine:
            self._prepare()
            machine, machine.changed = take()
            try:
                machine.changed = machine.changed.model_copy(update=furnished(machine, role))
            except BaseException:
                machine.close()
                raise
            machine.tell = on_fact
            self._pool.keep()  # only now: the first sandbox is waited for, those after it are made while it works
            if on_fact is not None:
                on_fact(machine.changed)
            return machine

        return SandboxInterpreter(opened, self._settings.sandbox, on_output)

    def _root(self, role: Role) -> tuple[SandboxMachine, SandboxChanged]:
        if role.is_kept:
            return self._sessions.take(role)
        labels = labels_of(self._creation.instance, role)
        machine = self._pool.take()
        if machine is None:
            machine = self._pool.make(Spec(labels))
        else:
            self.client.post(machine.label, labels)
        return machine, SandboxChanged(
            sandbox_id=machine.sandbox_id, state="ready", isolation=self.client.isolation.label
        )

    @during("create")
    def _prepare(self) -> None:
        if not self.client.is_remote:
            self.client.server()  # starts while the SDK is imported
        self.client.get()
        self._sweep_now_and_then()

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
