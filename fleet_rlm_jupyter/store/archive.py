"""What is written of runs: accepted, appended in batches, ended once, pruned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.errors import ErrorText, Interrupted, KeyReused
from fleet_rlm_jupyter.domain.events import (
    ArtifactWritten,
    CallEnded,
    Event,
    Fact,
    PhaseStarted,
    RowScored,
    RunEnded,
    RunStarted,
    ScoreReported,
)
from fleet_rlm_jupyter.domain.session import Run, Turn
from fleet_rlm_jupyter.store import processes
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.journal import Acceptance, FullValue
from fleet_rlm_jupyter.store.tables import (
    ARTIFACTS,
    CONTENTS,
    EVENTS,
    FEEDBACK,
    FINDINGS,
    KEYS,
    OPTIMIZATIONS,
    RUNS,
    SESSIONS,
    SNAPSHOTS,
    TURNS,
    VALUES,
)

NOT_PINNED = RUNS.c.run_id.not_in(sa.select(SNAPSHOTS.c.run_id))
"""Of runs: what their inputs were is not wanted any more."""

TITLE_CHARS = 80
INTERRUPTED = ErrorText.of(Interrupted())


class Archive:
    """Writes to one database. Raises StoreFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def accept(self, given: Acceptance) -> str:
        """Make the run's row and return its id when it would survive a power cut.

        Where its key was used before, nothing is made and that run's id is returned; raises KeyReused if the key
        stands for something else.
        """
        session = self._database.insert(SESSIONS).on_conflict_do_nothing()
        run = sa.insert(RUNS).values(
            run_id=given.run_id,
            session_id=given.session_id,
            question=plain(given.question),
            process=processes.here(),
            started_at=given.at,
            owner=given.owner,
        )
        with self._database.writing(full=True) as connection:
            if given.key is not None and (earlier := self._claim(connection, given)) is not None:
                return earlier
            values = {"session_id": given.session_id, "owner": given.owner, "title": _title(given.question)}
            connection.execute(session.values(**values, created_at=given.at, updated_at=given.at))
            title = sa.case((SESSIONS.c.title == "", _title(given.question)), else_=SESSIONS.c.title)
            known = sa.update(SESSIONS).where(SESSIONS.c.session_id == given.session_id)
            connection.execute(known.values(updated_at=given.at, title=title))
            connection.execute(run)
        return given.run_id

    def append(self, events: Sequence[Event], turns: Mapping[str, Turn], values: Sequence[FullValue] = ()) -> None:
        """Keep `events` and the values behind them in one transaction, a run's end with its row and its turn.

        `turns` are the turns of the runs that end here, by run id. An end survives a power cut.
        """
        if not events and not values:
            return
        ends = [(event, event.fact) for event in events if isinstance(event.fact, RunEnded)]
        with self._database.writing(full=bool(ends)) as connection:
            if values:
                self._keep(connection, values)
            if events:
                connection.execute(sa.insert(EVENTS), [_row(event) for event in events])
            written = [artifact_row(event, event.fact) for event in events if isinstance(event.fact, ArtifactWritten)]
            if written:
                connection.execute(sa.insert(ARTIFACTS), written)
            begun = [_optimization(event, event.fact) for event in events if isinstance(event.fact, RunStarted)]
            for table, rows in ((OPTIMIZATIONS, begun), (FINDINGS, map(_finding, events))):
                if some := [row for row in rows if row is not None]:
                    connection.execute(sa.insert(table), some)
            for event, fact in ends:
                self._end(connection, event.run_id, fact, event.at, turns.get(event.run_id))

    def mark_interrupted(self) -> list[str]:
        """End every open run whose process is gone, its open calls first; returns their ids."""
        query = sa.select(RUNS.c.run_id, RUNS.c.process).where(RUNS.c.status.is_(None))
        with self._database.reading() as connection:
            found = connection.execute(query).all()
        return [row.run_id for row in found if processes.is_gone(row.process) and self._interrupt(row.run_id)]

    def prune(self, before: float) -> int:
        """Forget the runs that ended before that time, with the turns that they answered; returns how many."""
        old = sa.select(RUNS.c.run_id).where(RUNS.c.ended_at < before, NOT_PINNED)
        with self._database.writing() as connection:
            return forget(connection, old)

    def _claim(self, connection: sa.Connection, given: Acceptance) -> str | None:
        row = {"owner": given.owner, "session_id": given.scope, "key": given.key}
        made = self._database.insert(KEYS).values(**row, digest=given.digest, run_id=given.run_id)
        if connection.execute(made.on_conflict_do_nothing().returning(KEYS.c.run_id)).first() is not None:
            return None
        same = sa.and_(*(KEYS.c[name] == value for name, value in row.items()))
        earlier = connection.execute(sa.select(KEYS.c.digest, KEYS.c.run_id).where(same)).one()
        if earlier.digest != given.digest:
            assert given.key is not None
            raise KeyReused.of(given.key)
        return earlier.run_id

    def _keep(self, connection: sa.Connection, values: Sequence[FullValue]) -> None:
        digests = [hashlib.sha256(value.text.encode("utf-8", "replace")).hexdigest() for value in values]
        contents = {digest: plain(value.text) for digest, value in zip(digests, values, strict=True)}
        connection.execute(
            self._database.insert(CONTENTS).on_conflict_do_nothing(),
            [{"digest": digest, "text": text} for digest, text in contents.items()],
        )
        rows = [
            {"run_id": value.run_id, "call_id": value.call_id, "name": value.name, "digest": digest}
            for digest, value in zip(digests, values, strict=True)
        ]
        connection.execute(self._database.insert(VALUES).on_conflict_do_nothing(), rows)

    def _end(self, connection: sa.Connection, run_id: str, fact: RunEnded, at: float, turn: Turn | None) -> None:
        ended = sa.update(RUNS).where(RUNS.c.run_id == run_id)
        connection.execute(ended.values(status=fact.status, ended_at=at))
        if turn is None:
            return
        session_id = turn.run.session_id
        last = sa.select(sa.func.coalesce(sa.func.max(TURNS.c.number), 0)).where(TURNS.c.session_id == session_id)
        connection.execute(
            sa.insert(TURNS).values(
                turn_id=turn.turn_id,
                session_id=session_id,
                number=(connection.execute(last).scalar() or 0) + 1,
                run_id=run_id,
                message=plain(turn.message),
                run=turn.run.model_dump_json(),
                at=at,
            )
        )
        connection.execute(sa.update(SESSIONS).where(SESSIONS.c.session_id == session_id).values(updated_at=at))

    def _interrupt(self, run_id: str) -> bool:
        is_open = sa.select(RUNS).where(RUNS.c.run_id == run_id, RUNS.c.status.is_(None)).with_for_update()
        lines = sa.select(EVENTS.c.line).where(EVENTS.c.run_id == run_id).order_by(EVENTS.c.seq)
        with self._database.writing(full=True) as connection:
            row = connection.execute(is_open).first()
            if row is None:
                return False  # another process was quicker
            seq, at, calls = 0, row.started_at, dict[str, None]()
            tree = fold([])
            for (line,) in connection.execute(lines):
                event = Event.decode(line)
                fold([event], tree)
                seq, at = event.seq + 1, event.at
                if event.fact.type == "call.started":
                    calls[event.call_id or ""] = None
                elif event.fact.type == "call.ended":
                    calls.pop(event.call_id or "", None)
            facts: list[tuple[str | None, Fact]] = [(call, CallEnded(error=INTERRUPTED)) for call in reversed(calls)]
            end = RunEnded(status="failed", error=INTERRUPTED)
            facts.append((None, end))
            made = [
                Event(seq=seq + n, at=at, session_id=row.session_id, run_id=run_id, call_id=call, fact=fact)
                for n, (call, fact) in enumerate(facts)
            ]
            connection.execute(sa.insert(EVENTS), [_row(event) for event in made])
            run = Run.of(fold(made, tree), row.question, row.session_id)
            self._end(connection, run_id, end, at, Turn(message=row.question, run=run))
        return True


def forget(connection: sa.Connection, runs: sa.Select[tuple[str]]) -> int:
    """Delete the runs of that query and everything that hangs on them; returns how many. Keys stay: a key whose run
    is forgotten must not run again."""
    found = [row[0] for row in connection.execute(runs)]
    for begin in range(0, len(found), 500):
        some = found[begin : begin + 500]
        turns = sa.select(TURNS.c.turn_id).where(TURNS.c.run_id.in_(some))
        connection.execute(sa.delete(FEEDBACK).where(FEEDBACK.c.turn_id.in_(turns)))
        for table in (TURNS, ARTIFACTS, FINDINGS, OPTIMIZATIONS, EVENTS, VALUES, RUNS):
            connection.execute(sa.delete(table).where(table.c.run_id.in_(some)))
    if found:
        connection.execute(sa.delete(CONTENTS).where(CONTENTS.c.digest.not_in(sa.select(VALUES.c.digest))))
    return len(found)


def _row(event: Event) -> dict[str, str | int]:
    return {"run_id": event.run_id, "seq": event.seq, "line": event.encode()}


def artifact_row(event: Event, fact: ArtifactWritten) -> dict[str, str | int | float | None]:
    place = {"run_id": event.run_id, "seq": event.seq, "session_id": event.session_id, "call_id": event.call_id}
    return {**place, **fact.model_dump(include={"path", "bytes", "sha256"}), "at": event.at}


def _optimization(event: Event, fact: RunStarted) -> dict[str, str] | None:
    if fact.trial is None:
        return None
    return {"run_id": event.run_id, "program": plain(fact.program), "dataset": plain(fact.dataset)}


def _finding(event: Event) -> Mapping[str, object] | None:
    """What is known of the event where it is one that tells of an optimization."""
    fact = event.fact
    empty = {"run_id": event.run_id, "seq": event.seq, "candidate": "", "split": "", "row_id": "", "score": None}
    if isinstance(fact, ScoreReported):
        return {**empty, **fact.model_dump(include={"candidate", "split", "score"})}
    if isinstance(fact, RowScored):
        return {**empty, **fact.model_dump(include={"candidate", "split", "row_id", "score"})}
    return empty if isinstance(fact, PhaseStarted) or (isinstance(fact, RunStarted) and fact.trial) else None


def _title(question: str) -> str:
    words = plain(" ".join(question.split()))
    return words if len(words) <= TITLE_CHARS else f"{words[: TITLE_CHARS - 1]}…"


def plain(text: str) -> str:
    # PostgreSQL keeps no NUL in a text, neither keeps halves of a surrogate pair.
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode("utf-8")
