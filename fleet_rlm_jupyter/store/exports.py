"""A session as one versioned JSON object, and back."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.events import ArtifactWritten, Event, RunEnded, RunStarted
from fleet_rlm_jupyter.domain.memory import MemoryItem
from fleet_rlm_jupyter.domain.session import Feedback, KeptSession, Session, Turn, new_id
from fleet_rlm_jupyter.store.archive import artifact_row
from fleet_rlm_jupyter.store.database import Database
from fleet_rlm_jupyter.store.memory import StoredMemory
from fleet_rlm_jupyter.store.sessions import StoredSessions
from fleet_rlm_jupyter.store.tables import ARTIFACTS, EVENTS, FEEDBACK, MEMORY, RUNS, SESSIONS, TURNS

VERSION = 1


class SessionExport(BaseModel):
    """What an export holds. `started` are the times and `traces` the events of its runs, by run id.

    `memory` are the items that hold in this session only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    session: Session
    created_at: float
    updated_at: float
    feedback: list[Feedback]
    started: dict[str, float]
    traces: dict[str, list[str]]
    memory: list[MemoryItem] = []


def export_session(database: Database, owner: str, session_id: str) -> str:
    """The session, its turns, their feedback and the events of its runs that have ended, as JSON."""
    sessions = StoredSessions(database, owner)
    kept = sessions.get(session_id)
    ended = sa.select(RUNS.c.run_id, RUNS.c.started_at).where(
        RUNS.c.session_id == session_id, RUNS.c.status.is_not(None)
    )
    lines = sa.select(EVENTS.c.line).order_by(EVENTS.c.seq)
    with database.reading() as connection:
        started = {row.run_id: row.started_at for row in connection.execute(ended)}
        traces = {
            run_id: list(connection.execute(lines.where(EVENTS.c.run_id == run_id)).scalars()) for run_id in started
        }
    made = SessionExport(
        session=sessions.session(session_id),
        created_at=kept.created_at,
        updated_at=kept.updated_at,
        feedback=sessions.feedback(session_id),
        started=started,
        traces=traces,
        memory=[item for item in StoredMemory(database, owner).list(session_id=session_id) if item.session_id],
    )
    return made.model_dump_json(indent=1)


def import_session(database: Database, owner: str, text: str | bytes) -> KeptSession:
    """Keep an exported session as `owner`'s, under new ids: it may come from anywhere, also from this very store.

    What was approved in it waits for its new owner's review, for nobody knows who had approved it.
    Raises BadRequest for what is no export of this version.
    """
    given = _parsed(text)
    session_id = new_id("s")
    runs = {run_id: new_id("r") for run_id in given.started}
    turns = [_renamed(turn, session_id, runs) for turn in given.session.turns]
    turn_ids = {old.turn_id: new.turn_id for old, new in zip(given.session.turns, turns, strict=True)}
    at = given.updated_at
    session = {"session_id": session_id, "owner": owner, "title": given.session.title}
    with database.writing(full=True) as connection:
        connection.execute(sa.insert(SESSIONS).values(**session, created_at=given.created_at, updated_at=at))
        for old, run_id in runs.items():
            events = [_moved(line, session_id, run_id) for line in given.traces.get(old, [])]
            _put_run(connection, events, owner, given.started[old])
        for number, turn in enumerate(turns, 1):
            row = {"turn_id": turn.turn_id, "session_id": session_id, "number": number, "run_id": turn.run.run_id}
            record = turn.run.model_dump_json()
            connection.execute(sa.insert(TURNS).values(**row, message=turn.message, run=record, at=at))
        for item in given.feedback:
            if item.turn_id in turn_ids:
                row = {**item.model_dump(), "turn_id": turn_ids[item.turn_id]}
                connection.execute(sa.insert(FEEDBACK).values(**row, at=at))
        for item in given.memory:
            place = {"owner": owner, "memory_id": new_id("m"), "session_id": session_id}
            state = "rejected" if item.state == "rejected" else "proposed"
            row = {**item.model_dump(), **place, "state": state, "run_id": runs.get(item.run_id, "")}
            connection.execute(sa.insert(MEMORY).values(**row))
    return StoredSessions(database, owner).get(session_id)


def _parsed(text: str | bytes) -> SessionExport:
    try:
        given = SessionExport.model_validate_json(text)
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"this is no exported session: {where or 'it'} {first['msg'].lower()}", _MAKE_ONE) from err
    if given.version != VERSION:
        raise BadRequest(f"version {given.version} of an exported session is not known here", "upgrade the package")
    return given


def _renamed(turn: Turn, session_id: str, runs: dict[str, str]) -> Turn:
    run = turn.run.model_copy(update={"session_id": session_id, "run_id": runs.get(turn.run.run_id) or new_id("r")})
    return Turn(message=turn.message, run=run)


def _moved(line: str, session_id: str, run_id: str) -> Event:
    try:
        return Event.decode(line).model_copy(update={"session_id": session_id, "run_id": run_id})
    except ValueError as err:
        raise BadRequest("this is no exported session: a trace holds what is no event", _MAKE_ONE) from err


def _put_run(connection: sa.Connection, events: list[Event], owner: str, started_at: float) -> None:
    end = events[-1] if events else None
    if end is None or not isinstance(end.fact, RunEnded) or [event.seq for event in events] != list(range(len(events))):
        raise BadRequest("this is no exported session: a trace has no end or a gap", _MAKE_ONE)
    question = next((event.fact.message for event in events if isinstance(event.fact, RunStarted)), "")
    row: dict[str, Any] = {"run_id": end.run_id, "session_id": end.session_id, "owner": owner, "process": ""}
    times = {"started_at": started_at, "ended_at": end.at, "status": end.fact.status}
    connection.execute(sa.insert(RUNS).values(**row, **times, question=question))
    written = [artifact_row(event, event.fact) for event in events if isinstance(event.fact, ArtifactWritten)]
    if written:
        connection.execute(sa.insert(ARTIFACTS), written)
    connection.execute(
        sa.insert(EVENTS), [{"run_id": item.run_id, "seq": item.seq, "line": item.encode()} for item in events]
    )


_MAKE_ONE = "`fleet sessions export` makes one"
