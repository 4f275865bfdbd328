"""What sandboxes were asked for, written down before they are made, so that a crash leaves none behind unseen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.errors import StoreFailed
from fleet_rlm_jupyter.domain.ports import Allocation
from fleet_rlm_jupyter.domain.session import new_id
from fleet_rlm_jupyter.store import processes
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.tables import ALLOCATIONS


class StoredAllocations:
    """`Allocations` in a store. A store that fails is no reason for having no sandbox: then nothing is written."""

    def __init__(self, database: Callable[[], Database]) -> None:
        self._database = database

    def begin(self, labels: Mapping[str, str]) -> str:
        allocation_id = new_id("a")
        row = {"allocation_id": allocation_id, "sandbox_id": "", "labels": json.dumps(dict(labels))}
        more = {"state": "asked", "process": processes.here(), "created_at": time.time()}
        with suppress(StoreFailed), self._database().writing(full=True) as connection:
            connection.execute(sa.insert(ALLOCATIONS).values(**row, **more))
        return allocation_id

    def made(self, allocation_id: str, sandbox_id: str) -> None:
        change = sa.update(ALLOCATIONS).where(ALLOCATIONS.c.allocation_id == allocation_id)
        with suppress(StoreFailed), self._database().writing() as connection:
            connection.execute(change.values(sandbox_id=sandbox_id, state="made"))

    def ended(self, allocation_id: str) -> None:
        gone = sa.delete(ALLOCATIONS).where(ALLOCATIONS.c.allocation_id == allocation_id)
        with suppress(StoreFailed), self._database().writing() as connection:
            connection.execute(gone)

    def left(self) -> list[Allocation]:
        try:
            with self._database().reading() as connection:
                rows = connection.execute(sa.select(ALLOCATIONS).order_by(ALLOCATIONS.c.created_at)).all()
        except StoreFailed:
            return []
        return [
            Allocation(row.allocation_id, row.sandbox_id, json.loads(row.labels), row.created_at)
            for row in rows
            if processes.is_gone(row.process)
        ]
