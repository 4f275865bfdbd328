"""Runs that are kept: written in batches, read in pages, never a whole run in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.errors import BadRequest, ErrorText
from fleet_rlm_jupyter.domain.events import CallEnded, Event, Fact, RunEnded
from fleet_rlm_jupyter.store import owners
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.tables import EVENTS, RUNS, SESSIONS, VALUES

PAGE = 1000
INTERRUPTED = ErrorText(
    code="interrupted", text="the process that worked on this run ended", hint="ask again; what it found is kept"
)


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A line of the list of runs. `status` is None while it goes on."""

    run_id: str
    session_id: str
    question: str
    started_at: float
    ended_at: float | None
    status: str | None


class Archive:
    """Everything that is kept in one database. Raises StoreFailed, and BadRequest for a run that is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def accept(self, run_id: str, session_id: str, question: str, at: float) -> None:
        """Make the run's row; returns when it would survive a power cut."""
        session = sa.insert(SESSIONS).prefix_with("OR IGNORE").values(session_id=session_id, created_at=at)
        run = sa.insert(RUNS).values(
            run_id=run_id, session_id=session_id, question=question, owner=owners.here(), started_at=at
        )
        with self._database.writing(full=True) as connection:
            connection.execute(session)
            connection.execute(run)

    def append(self, events: Sequence[Event]) -> None:
        """Keep `events` in one transaction, a run's end with its row; an end survives a power cut."""
        ends = [(event, event.fact) for event in events if isinstance(event.fact, RunEnded)]
        rows = [{"run_id": event.run_id, "seq": event.seq, "line": event.encode()} for event in events]
        if not rows:
            return
        with self._database.writing(full=bool(ends)) as connection:
            connection.execute(sa.insert(EVENTS), rows)
            for event, fact in ends:
                ended = sa.update(RUNS).where(RUNS.c.run_id == event.run_id)
                connection.execute(ended.values(status=fact.status, ended_at=event.at))

    def runs(self, search: str = "", limit: int = 20, before: float | None = None) -> list[KeptRun]:
        """The newest runs that began before `before` and have `search` in their question or id, newest first."""
        columns = [RUNS.c[name] for name in KeptRun.__slots__]
        query = sa.select(*columns).order_by(RUNS.c.started_at.desc(), RUNS.c.run_id).limit(limit)
        if search:
            query = query.where(
                RUNS.c.question.icontains(search, autoescape=True) | RUNS.c.run_id.startswith(search, autoescape=True)
            )
        if before is not None:
            query = query.where(RUNS.c.started_at < before)
        with self._database.reading() as connection:
            return [KeptRun(*row) for row in connection.execute(query)]

    def find(self, prefix: str) -> KeptRun:
        """The one run whose id begins with `prefix`."""
        columns = [RUNS.c[name] for name in KeptRun.__slots__]
        query = sa.select(*columns).where(RUNS.c.run_id.startswith(prefix, autoescape=True)).limit(2)
        with self._database.reading() as connection:
            found = [KeptRun(*row) for row in connection.execute(query)]
        if not prefix or not found:
            raise BadRequest(f"there is no run {prefix}", "`fleet runs list` names those that are kept")
        if len(found) > 1:
            raise BadRequest(f"more than one run begins with {prefix}", "give more of its id")
        return found[0]

    def lines(self, run_id: str, since: int = 0) -> Iterator[str]:
        """The run's events from `since` on as lines of JSON; each page is a transaction of its own."""
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
        return (Event.decode(line) for line in self.lines(run_id, since))

    def mark_interrupted(self) -> list[str]:
        """End every open run whose process is gone, its open calls first; returns their ids."""
        query = sa.select(RUNS.c.run_id, RUNS.c.session_id, RUNS.c.owner, RUNS.c.started_at)
        with self._database.reading() as connection:
            found = connection.execute(query.where(RUNS.c.status.is_(None))).all()
        gone = [row for row in found if owners.is_gone(row.owner)]
        return [row.run_id for row in gone if self._interrupt(row.run_id, row.session_id, row.started_at)]

    def prune(self, before: float) -> int:
        """Forget the runs that ended before that time; returns how many."""
        old = sa.select(RUNS.c.run_id).where(RUNS.c.ended_at < before)
        with self._database.writing() as connection:
            for table in (EVENTS, VALUES):
                connection.execute(sa.delete(table).where(table.c.run_id.in_(old)))
            return connection.execute(sa.delete(RUNS).where(RUNS.c.ended_at < before)).rowcount

    def _interrupt(self, run_id: str, session_id: str, at: float) -> bool:
        is_open = sa.select(RUNS.c.run_id).where(RUNS.c.run_id == run_id, RUNS.c.status.is_(None))
        lines = sa.select(EVENTS.c.line).where(EVENTS.c.run_id == run_id).order_by(EVENTS.c.seq)
        with self._database.writing(full=True) as connection:
            if connection.execute(is_open).first() is None:
                return False  # another process was quicker
            seq, calls = 0, dict[str, None]()
            for (line,) in connection.execute(lines):
                raw = json.loads(line)
                seq, at = raw["seq"] + 1, raw["at"]
                if raw["type"] == "call.started":
                    calls[raw["call_id"]] = None
                elif raw["type"] == "call.ended":
                    calls.pop(raw["call_id"], None)
            facts: list[tuple[str | None, Fact]] = [(call, CallEnded(error=INTERRUPTED)) for call in reversed(calls)]
            facts.append((None, RunEnded(status="failed", error=INTERRUPTED)))
            made = [
                Event(seq=seq + n, at=at, session_id=session_id, run_id=run_id, call_id=call, fact=fact)
                for n, (call, fact) in enumerate(facts)
            ]
            rows = [{"run_id": run_id, "seq": event.seq, "line": event.encode()} for event in made]
            connection.execute(sa.insert(EVENTS), rows)
            connection.execute(sa.update(RUNS).where(RUNS.c.run_id == run_id).values(status="failed", ended_at=at))
        return True
