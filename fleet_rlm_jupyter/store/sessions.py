"""Kept sessions as their owner sees them: lists, turns, feedback, files that runs wrote."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.calls import summed
from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchSession, SessionBusy
from fleet_rlm_jupyter.domain.session import (
    Artifact,
    Feedback,
    KeptSession,
    Session,
    SessionStats,
    new_id,
)
from fleet_rlm_jupyter.store.archive import forget
from fleet_rlm_jupyter.store.database import Kept
from fleet_rlm_jupyter.store.runs import turn_of
from fleet_rlm_jupyter.store.tables import ARTIFACTS, FEEDBACK, MEMORY, RUNS, SESSIONS, TURNS

_COUNTED = sa.select(sa.func.count()).where(TURNS.c.session_id == SESSIONS.c.session_id).scalar_subquery()
_LISTED = [SESSIONS.c[name] for name in KeptSession.model_fields if name != "turns"]


class StoredSessions(Kept):
    """The sessions of one owner; those of others look as if not there. Raises StoreFailed and NoSuchSession."""

    def list(
        self, search: str = "", is_archived: bool = False, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[KeptSession], str | None]:
        """A page, last used first, and where the next one begins (None: there is none). `search` is in the title."""
        query = sa.select(*_LISTED, _COUNTED).where(SESSIONS.c.owner == self._owner)
        query = query.where(SESSIONS.c.archived_at.is_not(None) if is_archived else SESSIONS.c.archived_at.is_(None))
        if search:
            query = query.where(SESSIONS.c.title.icontains(search, autoescape=True))
        if cursor is not None:
            at, session_id = _place(cursor)
            earlier = SESSIONS.c.updated_at < at
            query = query.where(earlier | ((SESSIONS.c.updated_at == at) & (SESSIONS.c.session_id > session_id)))
        query = query.order_by(SESSIONS.c.updated_at.desc(), SESSIONS.c.session_id).limit(limit + 1)
        with self._database.reading() as connection:
            found = [_kept(row) for row in connection.execute(query)]
        last = found[limit - 1] if len(found) > limit else None
        return found[:limit], last and f"{last.updated_at!r} {last.session_id}"

    def get(self, session_id: str) -> KeptSession:
        query = sa.select(*_LISTED, _COUNTED).where(*self._is(session_id))
        with self._database.reading() as connection:
            found = connection.execute(query).first()
        if found is None:
            raise no_such_session(session_id)
        return _kept(found)

    def find(self, prefix: str) -> KeptSession:
        """The one session whose id begins with `prefix`; raises BadRequest where there are more."""
        query = sa.select(*_LISTED, _COUNTED).where(SESSIONS.c.owner == self._owner)
        query = query.where(SESSIONS.c.session_id.startswith(prefix, autoescape=True)).limit(2)
        with self._database.reading() as connection:
            found = [_kept(row) for row in connection.execute(query)]
        if not prefix or not found:
            raise no_such_session(prefix)
        if len(found) > 1:
            raise BadRequest(f"more than one session begins with {prefix}", "give more of its id")
        return found[0]

    def create(self, title: str = "", session_id: str | None = None) -> KeptSession:
        made, now = session_id or new_id("s"), time.time()
        values = {"session_id": made, "owner": self._owner, "title": title, "created_at": now, "updated_at": now}
        with self._database.writing(full=True) as connection:
            connection.execute(sa.insert(SESSIONS).values(**values))
        return self.get(made)

    def rename(self, session_id: str, title: str) -> KeptSession:
        return self._change(session_id, title=title)

    def archive(self, session_id: str) -> KeptSession:
        """Leave it out of the list; nothing of it is lost."""
        return self._change(session_id, archived_at=time.time())

    def restore(self, session_id: str) -> KeptSession:
        return self._change(session_id, archived_at=None)

    def delete(self, session_id: str) -> None:
        """Forget it with all its runs. Raises SessionBusy while one of them goes on."""
        self.get(session_id)
        runs = sa.select(RUNS.c.run_id).where(RUNS.c.session_id == session_id)
        with self._database.writing() as connection:
            if connection.execute(runs.where(RUNS.c.status.is_(None))).first() is not None:
                raise SessionBusy(f"a run of session {session_id} is still going on", "cancel it, or wait for it")
            forget(connection, runs)
            # Turns of an import have no run of their own.
            left = sa.select(TURNS.c.turn_id).where(TURNS.c.session_id == session_id)
            connection.execute(sa.delete(FEEDBACK).where(FEEDBACK.c.turn_id.in_(left)))
            connection.execute(sa.delete(TURNS).where(TURNS.c.session_id == session_id))
            connection.execute(sa.delete(MEMORY).where(MEMORY.c.session_id == session_id))
            connection.execute(sa.delete(SESSIONS).where(*self._is(session_id)))

    def old(self, before: float) -> list[str]:
        """The ids of the sessions last used before that time of which no run goes on."""
        is_busy = sa.exists().where(RUNS.c.session_id == SESSIONS.c.session_id, RUNS.c.status.is_(None))
        old = sa.select(SESSIONS.c.session_id).where(SESSIONS.c.owner == self._owner, SESSIONS.c.updated_at < before)
        with self._database.reading() as connection:
            return [row[0] for row in connection.execute(old.where(~is_busy))]

    def session(self, session_id: str, last: int | None = None) -> Session:
        """The session with its turns, oldest first; only the `last` ones where given."""
        kept = self.get(session_id)
        query = sa.select(TURNS.c.turn_id, TURNS.c.message, TURNS.c.run).where(TURNS.c.session_id == session_id)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(TURNS.c.number.desc()).limit(last)).mappings().all()
        turns = tuple(turn_of(row) for row in reversed(rows))
        return Session(session_id=session_id, title=kept.title, turns=turns)

    def stats(self, session_id: str) -> SessionStats:
        turns = self.session(session_id).turns
        return SessionStats(
            turns=len(turns),
            by_status=dict(Counter(turn.run.status for turn in turns)),
            usage=summed(turn.run.usage for turn in turns),
        )

    def artifacts(self, session_id: str) -> list[Artifact]:
        """The files that its runs wrote, newest first."""
        self.get(session_id)
        columns = [ARTIFACTS.c[name] for name in Artifact.model_fields]
        query = sa.select(*columns).where(ARTIFACTS.c.session_id == session_id).order_by(ARTIFACTS.c.at.desc())
        with self._database.reading() as connection:
            return [Artifact.model_validate(dict(row)) for row in connection.execute(query).mappings()]

    def give_feedback(self, given: Feedback) -> None:
        """Keep what is thought of a turn, in place of what was. Raises BadRequest where there is no such turn."""
        owner = sa.select(SESSIONS.c.owner).join(TURNS, TURNS.c.session_id == SESSIONS.c.session_id)
        values = {**given.model_dump(), "at": time.time()}
        made = self._database.insert(FEEDBACK).values(**values)
        with self._database.writing() as connection:
            if connection.execute(owner.where(TURNS.c.turn_id == given.turn_id)).scalar() != self._owner:
                raise BadRequest(f"there is no turn {given.turn_id}", "a session names its turns")
            connection.execute(made.on_conflict_do_update(index_elements=["turn_id"], set_=values))

    def feedback(self, session_id: str) -> list[Feedback]:
        """What was thought of its turns."""
        self.get(session_id)
        columns = [FEEDBACK.c[name] for name in Feedback.model_fields]
        query = sa.select(*columns).join(TURNS, TURNS.c.turn_id == FEEDBACK.c.turn_id)
        with self._database.reading() as connection:
            rows = connection.execute(query.where(TURNS.c.session_id == session_id).order_by(TURNS.c.number))
            return [Feedback.model_validate(dict(row)) for row in rows.mappings()]

    def _change(self, session_id: str, **values: Any) -> KeptSession:
        with self._database.writing(full=True) as connection:
            if not connection.execute(sa.update(SESSIONS).where(*self._is(session_id)).values(**values)).rowcount:
                raise no_such_session(session_id)
        return self.get(session_id)

    def _is(self, session_id: str) -> tuple[sa.ColumnElement[bool], ...]:
        return SESSIONS.c.session_id == session_id, SESSIONS.c.owner == self._owner


def no_such_session(session_id: str) -> NoSuchSession:
    return NoSuchSession(f"there is no session {session_id}", "`fleet sessions list` names those that are kept")


def _kept(row: sa.Row[Any]) -> KeptSession:
    *fields, turns = row
    names = [column.name for column in _LISTED]
    return KeptSession.model_validate({**dict(zip(names, fields, strict=True)), "turns": turns})


def _place(cursor: str) -> tuple[float, str]:
    at, _, session_id = cursor.partition(" ")
    try:
        return float(at), session_id
    except ValueError as err:
        raise BadRequest(f"{cursor!r} is no place in the list", "take the cursor that came with the last page") from err
