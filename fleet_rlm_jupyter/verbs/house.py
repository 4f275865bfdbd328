"""What all users of one Workbench share: settings, models, sandboxes, the store, and the runs that go on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fleet_rlm_jupyter import store
from fleet_rlm_jupyter.domain.errors import during
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.domain.ports import Sandboxes, Workspace
from fleet_rlm_jupyter.domain.session import new_id
from fleet_rlm_jupyter.engine.models import Models, resolve
from fleet_rlm_jupyter.engine.repositories import Repositories, refuse_outside
from fleet_rlm_jupyter.engine.staging import roots_of
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Loaded, Settings, secrets_of
from fleet_rlm_jupyter.store.journal import Journal
from fleet_rlm_jupyter.store.place import folder_of
from fleet_rlm_jupyter.verbs.live import LiveRun
from fleet_rlm_jupyter.verbs.manifests import Manifests

if TYPE_CHECKING:
    from fleet_rlm_jupyter.verbs.cells import Cells

MANIFEST_SECONDS = 2.0
"""How long the end of a Workbench waits for what its last turns write on their volumes."""


class House:
    """Built once and handed to every view of the Workbench. Thread-safe; whoever made it closes it."""

    def __init__(self, loaded: Loaded, sandboxes: Sandboxes | None, models: Models | None) -> None:
        self.loaded = loaded
        self.mask = mask_of(loaded.settings)
        self.lock = threading.RLock()
        self.starting = threading.Lock()
        self.keys: dict[tuple[str, str, str], tuple[str, str]] = {}
        self.runs: dict[str, LiveRun] = {}
        self.cells: dict[tuple[str, str], Cells] = {}
        self._given_sandboxes = sandboxes
        self._sandboxes: dict[bool, Sandboxes] = {}
        self._given_models = models
        self._models = models
        self._store: store.store.Store | None = None
        self._journal: Journal | None = None
        self._sessions: dict[str, str] = {}
        self.manifests = Manifests(self.store)
        self.repositories = Repositories(folder_of(loaded.settings.store) / "repositories")

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @during("clone")
    def repository(self, url: str, ref: str) -> Workspace:
        """Its files at `ref`, fetched. Raises what `Repositories.tree` raises, and BadRequest outside of the roots."""
        refuse_outside(url, roots_of(self.settings))
        return self.repositories.tree(url, ref, self.settings)

    def models(self) -> Models:
        """The models in force, resolved once. Raises BadSettings."""
        with self.lock:
            if self._models is None:
                self._models = resolve(self.loaded)
            return self._models

    def change(self, loaded: Loaded) -> None:
        """These settings from now on, for the runs to come. Raises BadSettings, and then changes nothing."""
        models = self._given_models or resolve(loaded)
        with self.lock:
            self.loaded, self._models = loaded, models
            self.mask = mask_of(loaded.settings)

    def sandboxes(self, *, trusted_code: bool = False) -> Sandboxes:
        """Where generated code runs. `trusted_code` is for code that we wrote ourselves (offline recipes)."""
        if self._given_sandboxes is not None:
            return self._given_sandboxes
        with self.lock:
            if trusted_code not in self._sandboxes:
                # The local server's sandboxes end with it: only a remote service needs a journal of them.
                journal = self.store().allocations() if self.settings.daytona.api_key else None
                made = DaytonaSandboxes(self.settings, journal, trusted_code=trusted_code)
                self._sandboxes[trusted_code] = made
            return self._sandboxes[trusted_code]

    def homes(self) -> list[Sandboxes]:
        """Where sandboxes may be. Starts no server: where nothing ran yet there are none, but at Daytona."""
        if self._given_sandboxes is not None:
            return [self._given_sandboxes]
        if self.settings.daytona.api_key is not None:
            self.sandboxes()
        with self.lock:
            return list(self._sandboxes.values())

    def store(self) -> store.store.Store:
        """What is kept; it opens when it is first read or written."""
        with self.lock:
            if self._store is None:
                self._store = store.store.Store(self.settings.store)
            return self._store

    def journal(self) -> Journal:
        """What writes. The store is imported and opened in its thread: a run starts without waiting for it."""
        with self.lock:
            if self._journal is None:
                self._journal = Journal(lambda: self.store().archive())
            return self._journal

    def contexts(self, owner: str) -> store.contexts.StoredContexts:
        """Contexts by digest, in the folder of the store."""
        most_bytes = self.settings.context.max_mb * 1_000_000
        return store.contexts.StoredContexts(folder_of(self.settings.store), owner, most_bytes)

    def session_id(self, owner: str) -> str:
        """The conversation of what is asked without naming one."""
        with self.lock:
            return self._sessions.setdefault(owner, new_id("s"))

    def find(self, run_id: str, owner: str) -> LiveRun | None:
        """The run of that id if this process has it in memory: while it goes on, and where it is not kept."""
        run = self.runs.get(run_id)
        return run if run is not None and run.owner == owner else None

    def over(self, run: LiveRun) -> None:
        """The run has ended: from now on the store has it, or else we do."""
        if not run.not_kept:
            self.forget(run)

    def forget(self, run: LiveRun) -> None:
        with self.lock:
            self.runs.pop(run.run_id, None)

    def going_on(self, owner: str, session_id: str) -> list[LiveRun]:
        """The runs of that session that are not over, oldest first."""
        with self.lock:
            return [
                run
                for run in self.runs.values()
                if run.owner == owner and run.session_id == session_id and not run.is_over
            ]

    def close(self) -> None:
        """Interrupt what runs, end every sandbox, and finish writing."""
        for run in list(self.runs.values()):
            run.interrupt()
        self.manifests.close(MANIFEST_SECONDS)
        with self.lock:
            opened = list(self._sandboxes.values())
            self._sandboxes.clear()
            journal, self._journal = self._journal, None
        for sandboxes in opened:
            sandboxes.close()
        if journal is not None:
            journal.close()
        with self.lock:
            if self._store is not None:
                self._store.close()


def mask_of(settings: Settings) -> Mask:
    """What hides every key in force."""
    return Mask.of(settings, secrets_of(settings), home="")
