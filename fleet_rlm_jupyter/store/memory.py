"""Kept items of memory of one owner."""

from __future__ import annotations

import time

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.memory import MemoryItem, MemoryKind, MemoryState, no_such_memory
from fleet_rlm_jupyter.domain.session import new_id
from fleet_rlm_jupyter.store.archive import plain
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.tables import MEMORY

MOST_PROPOSED = 200
"""Most items of an owner that wait for a review: what nobody looks at must not grow for ever."""

_COLUMNS = [MEMORY.c[name] for name in MemoryItem.model_fields]


class StoredMemory:
    """The items of one owner; those of others look as if not there. Raises StoreFailed and NoSuchMemory."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner

    def list(
        self, state: MemoryState | None = None, session_id: str | None = None, limit: int | None = None
    ) -> list[MemoryItem]:
        """The newest first; with `session_id` those that hold in that session."""
        query = sa.select(*_COLUMNS).where(MEMORY.c.owner == self._owner)
        if state is not None:
            query = query.where(MEMORY.c.state == state)
        if session_id is not None:
            query = query.where(MEMORY.c.session_id.is_(None) | (MEMORY.c.session_id == session_id))
        query = query.order_by(MEMORY.c.created_at.desc(), MEMORY.c.memory_id).limit(limit)
        with self._database.reading() as connection:
            return [MemoryItem.model_validate(dict(row)) for row in connection.execute(query).mappings()]

    def get(self, memory_id: str) -> MemoryItem:
        query = sa.select(*_COLUMNS).where(*self._is(memory_id))
        with self._database.reading() as connection:
            found = connection.execute(query).mappings().first()
        if found is None:
            raise no_such_memory(memory_id)
        return MemoryItem.model_validate(dict(found))

    def add(
        self, text: str, kind: MemoryKind, state: MemoryState, session_id: str | None = None, run_id: str = ""
    ) -> MemoryItem:
        """Keep it. A proposal in words that are there already is that item, whatever became of it.

        Raises BadRequest where too many proposals wait.
        """
        now, text = time.time(), plain(text)
        made = MemoryItem(
            memory_id=new_id("m"),
            text=text,
            kind=kind,
            state=state,
            session_id=session_id,
            run_id=run_id,
            created_at=now,
            reviewed_at=None if state == "proposed" else now,
        )
        ours = MEMORY.c.owner == self._owner
        same = sa.select(*_COLUMNS).where(ours, MEMORY.c.text == text)
        waiting = sa.select(sa.func.count()).where(ours, MEMORY.c.state == "proposed")
        with self._database.writing(full=True) as connection:
            if state == "proposed":
                known = connection.execute(same).mappings().first()
                if known is not None:
                    return MemoryItem.model_validate(dict(known))
                if (connection.execute(waiting).scalar() or 0) >= MOST_PROPOSED:
                    raise BadRequest(f"{MOST_PROPOSED} proposals wait for a review", "review or delete some first")
            connection.execute(sa.insert(MEMORY).values(owner=self._owner, **made.model_dump()))
        return made

    def review(self, memory_id: str, state: MemoryState) -> MemoryItem:
        changed = sa.update(MEMORY).where(*self._is(memory_id)).values(state=state, reviewed_at=time.time())
        with self._database.writing(full=True) as connection:
            if not connection.execute(changed).rowcount:
                raise no_such_memory(memory_id)
        return self.get(memory_id)

    def delete(self, memory_id: str) -> None:
        with self._database.writing(full=True) as connection:
            if not connection.execute(sa.delete(MEMORY).where(*self._is(memory_id))).rowcount:
                raise no_such_memory(memory_id)

    def _is(self, memory_id: str) -> tuple[sa.ColumnElement[bool], ...]:
        return MEMORY.c.memory_id == memory_id, MEMORY.c.owner == self._owner
