"""Kept snapshots of one owner."""

from __future__ import annotations

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.errors import NoSuchRun
from fleet_rlm_jupyter.domain.snapshot import Snapshot
from fleet_rlm_jupyter.store.archive import plain
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.tables import SNAPSHOTS


class StoredSnapshots:
    """While one is there, neither its run nor its context is pruned. Raises StoreFailed and NoSuchRun."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner

    def list(self) -> list[Snapshot]:
        """The newest first."""
        return self._found(SNAPSHOTS.c.owner == self._owner)

    def get(self, run_id: str) -> Snapshot:
        found = self._found(*self._is(run_id))
        if not found:
            raise _no_snapshot(run_id)
        return found[0]

    def keep(self, snapshot: Snapshot) -> None:
        row = {"run_id": snapshot.run_id, "owner": self._owner, "sha256": snapshot.context.sha256}
        # In ASCII: PostgreSQL keeps no NUL in a text.
        text = plain(snapshot.model_dump_json())
        with self._database.writing(full=True) as connection:
            connection.execute(sa.insert(SNAPSHOTS).values(**row, snapshot=text, created_at=snapshot.created_at))

    def delete(self, run_id: str) -> None:
        with self._database.writing(full=True) as connection:
            if not connection.execute(sa.delete(SNAPSHOTS).where(*self._is(run_id))).rowcount:
                raise _no_snapshot(run_id)

    def _found(self, *where: sa.ColumnElement[bool]) -> list[Snapshot]:
        query = sa.select(SNAPSHOTS.c.snapshot).where(*where)
        query = query.order_by(SNAPSHOTS.c.created_at.desc(), SNAPSHOTS.c.run_id)
        with self._database.reading() as connection:
            return [Snapshot.model_validate_json(text) for text in connection.execute(query).scalars()]

    def _is(self, run_id: str) -> tuple[sa.ColumnElement[bool], ...]:
        return SNAPSHOTS.c.run_id == run_id, SNAPSHOTS.c.owner == self._owner


def pinned(database: Database) -> set[str]:
    """The digests of all contexts that a snapshot needs."""
    with database.reading() as connection:
        return set(connection.execute(sa.select(SNAPSHOTS.c.sha256)).scalars())


def _no_snapshot(run_id: str) -> NoSuchRun:
    return NoSuchRun(f"there is no snapshot of a run {run_id}", "`fleet snapshots list` names those that are kept")
