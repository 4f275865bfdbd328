"""Everything that is kept under one URL, opened when it is first needed."""

from __future__ import annotations

import threading
import time

from fleet_rlm_jupyter.domain.errors import StoreFailed
from fleet_rlm_jupyter.settings import StoreSettings
from fleet_rlm_jupyter.store.allocations import StoredAllocations
from fleet_rlm_jupyter.store.archive import Archive
from fleet_rlm_jupyter.store.contexts import prune_folder
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.datasets import StoredDatasets
from fleet_rlm_jupyter.store.memory import StoredMemory
from fleet_rlm_jupyter.store.optimizations import StoredOptimizations
from fleet_rlm_jupyter.store.place import folder_of, url_of
from fleet_rlm_jupyter.store.programs import StoredPrograms
from fleet_rlm_jupyter.store.runs import StoredRuns
from fleet_rlm_jupyter.store.sessions import StoredSessions
from fleet_rlm_jupyter.store.snapshots import StoredSnapshots, pinned

DAY_SECONDS = 86_400
TENDED_SECONDS = 3600


class Store:
    """Opened by whoever comes first, in their thread; thread-safe. Every method raises StoreFailed where it must open.

    Opening marks the runs of dead processes as failed and forgets those that are older than `retention_days`; so does
    every hour of use.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: Database | None = None
        self._tended = 0.0

    def database(self) -> Database:
        """The database as it was opened first; opened anew where its file was replaced since."""
        with self._lock:
            if self._opened is not None:
                try:
                    self._opened.check()
                except StoreFailed:
                    self._opened.close()
                    self._opened = None
            if self._opened is None:
                self._opened = self._open()
            elif time.monotonic() - self._tended > TENDED_SECONDS:
                self._tend(self._opened)
            return self._opened

    def archive(self) -> Archive:
        return Archive(self.database())

    def runs(self, owner: str) -> StoredRuns:
        return StoredRuns(self.database(), owner)

    def sessions(self, owner: str) -> StoredSessions:
        return StoredSessions(self.database(), owner)

    def datasets(self, owner: str) -> StoredDatasets:
        return StoredDatasets(self.database(), owner)

    def programs(self, owner: str) -> StoredPrograms:
        return StoredPrograms(self.database(), owner)

    def optimizations(self, owner: str) -> StoredOptimizations:
        return StoredOptimizations(self.database(), owner)

    def memory(self, owner: str) -> StoredMemory:
        return StoredMemory(self.database(), owner)

    def snapshots(self, owner: str) -> StoredSnapshots:
        return StoredSnapshots(self.database(), owner)

    def allocations(self) -> StoredAllocations:
        return StoredAllocations(self.database)

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _open(self) -> Database:
        database = Database(url_of(self._settings))
        try:
            self._tend(database)
        except StoreFailed:
            database.close()
            raise
        return database

    def _tend(self, database: Database) -> None:
        self._tended = time.monotonic()
        archive = Archive(database)
        archive.mark_interrupted()
        if self._settings.retention_days is not None:
            before = time.time() - self._settings.retention_days * DAY_SECONDS
            archive.prune(before)
            prune_folder(folder_of(self._settings) / "contexts", before, pinned(database))
