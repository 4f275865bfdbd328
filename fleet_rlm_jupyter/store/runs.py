"""Kept runs as their owner reads them: lists, and events in pages, never a whole run in memory."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.errors import BadRequest, NoSuchRun
from fleet_rlm_jupyter.domain.events import Event
from fleet_rlm_jupyter.domain.session import KeptRun, Run, Turn
from fleet_rlm_jupyter.store.archive import NOT_PINNED, forget
from fleet_rlm_jupyter.store.database import Kept
from fleet_rlm_jupyter.store.tables import CONTENTS, EVENTS, KEYS, RUNS, TURNS, VALUES

PAGE = 1000
COLUMNS = [RUNS.c[name] for name in KeptRun.model_fields]


class StoredRuns(Kept):
    """The runs of one owner; those of others look as if they were not there. Raises StoreFailed and NoSuchRun."""

    def list(
        self, search: str = "", session_id: str | None = None, limit: int = 20, before: float | None = None
    ) -> list[KeptRun]:
        """The newest runs that began before `before` and have `search` in their question or id, newest first."""
        query = self._ours().order_by(RUNS.c.started_at.desc(), RUNS.c.run_id).limit(limit)
        if search:
            query = query.where(
                RUNS.c.question.icontains(search, autoescape=True) | RUNS.c.run_id.startswith(search, autoescape=True)
            )
        if session_id is not None:
            query = query.where(RUNS.c.session_id == session_id)
        if before is not None:
            query = query.where(RUNS.c.started_at < before)
        with self._database.reading() as connection:
            return [_kept(row) for row in connection.execute(query).mappings()]

    def get(self, run_id: str) -> KeptRun:
        """The run of that id."""
        with self._database.reading() as connection:
            found = connection.execute(self._ours().where(RUNS.c.run_id == run_id)).mappings().first()
        if found is None:
            raise no_such_run(run_id)
        return _kept(found)

    def find(self, prefix: str) -> KeptRun:
        """The one run whose id begins with `prefix`; raises BadRequest where there are more."""
        query = self._ours().where(RUNS.c.run_id.startswith(prefix, autoescape=True)).limit(2)
        with self._database.reading() as connection:
            found = [_kept(row) for row in connection.execute(query).mappings()]
        if not prefix or not found:
            raise no_such_run(prefix)
        if len(found) > 1:
            raise BadRequest(f"more than one run begins with {prefix}", "give more of its id")
        return found[0]

    def lines(self, run_id: str, since: int = 0) -> Iterator[str]:
        """The run's events from `since` on as lines of JSON; each page is a transaction of its own."""
        self.get(run_id)
        while True:
            query = sa.select(EVENTS.c.seq, EVENTS.c.line).where(EVENTS.c.run_id == run_id, EVENTS.c.seq >= since)
            with self._database.reading() as connection:
                page = connection.execute(query.order_by(EVENTS.c.seq).limit(PAGE)).all()
            for _, line in page:
                yield line
            if len(page) < PAGE:
                return
            since = page[-1][0] + 1

    def events(self, run_id: str, since: int = 0) -> Iterator[Event]:
        return map(Event.decode, self.lines(run_id, since))

    def turn(self, run_id: str) -> Turn | None:
        """The turn that the run answered; None while it goes on."""
        self.get(run_id)
        query = sa.select(TURNS.c.turn_id, TURNS.c.message, TURNS.c.run).where(TURNS.c.run_id == run_id)
        with self._database.reading() as connection:
            found = connection.execute(query).mappings().first()
        return None if found is None else turn_of(found)

    def value(self, run_id: str, call_id: str, name: str) -> str | None:
        """The full text behind a preview; None where nothing more was kept than the preview."""
        self.get(run_id)
        query = (
            sa.select(CONTENTS.c.text)
            .join(VALUES, VALUES.c.digest == CONTENTS.c.digest)
            .where(VALUES.c.run_id == run_id, VALUES.c.call_id == call_id, VALUES.c.name == name)
        )
        with self._database.reading() as connection:
            return connection.execute(query).scalar()

    def known_key(self, scope: str, key: str) -> tuple[str, str] | None:
        """(digest, run id) of the request that the key stands for."""
        query = sa.select(KEYS.c.digest, KEYS.c.run_id).where(
            KEYS.c.owner == self._owner, KEYS.c.session_id == scope, KEYS.c.key == key
        )
        with self._database.reading() as connection:
            found = connection.execute(query).first()
        return None if found is None else (found.digest, found.run_id)

    def prune(self, before: float) -> int:
        """Forget the runs that ended before that time, with their turns, but those with a snapshot; how many."""
        old = sa.select(RUNS.c.run_id).where(RUNS.c.ended_at < before, RUNS.c.owner == self._owner, NOT_PINNED)
        with self._database.writing() as connection:
            return forget(connection, old)

    def _ours(self) -> sa.Select[tuple[object, ...]]:
        return sa.select(*COLUMNS).where(RUNS.c.owner == self._owner)


def no_such_run(run_id: str) -> NoSuchRun:
    return NoSuchRun(f"there is no run {run_id}", "`fleet runs list` or %fleet runs names those that are kept")


def turn_of(row: sa.RowMapping) -> Turn:
    """A row of turn_id, message and run as a Turn."""
    return Turn(turn_id=row["turn_id"], message=row["message"], run=Run.model_validate_json(row["run"]))


def _kept(row: sa.RowMapping) -> KeptRun:
    return KeptRun.model_validate(dict(row))
