"""Routes of sessions."""

from __future__ import annotations

from fleet_rlm_jupyter.domain.manifest import Resumed
from fleet_rlm_jupyter.domain.session import Artifact, DeletedSession, Feedback, KeptSession, Session, SessionStats
from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.schema import SessionBody, SessionPage, SessionsQuery
from fleet_rlm_jupyter.server.web import Endpoint, Raw


def list_sessions(asked: Asked, query: SessionsQuery) -> SessionPage:
    """The user's sessions, last used first, a page at a time."""
    found, cursor = asked.bench.sessions.list(query.search, query.archived, query.limit, query.cursor)
    return SessionPage(sessions=found, cursor=cursor)


def create_session(asked: Asked, body: SessionBody) -> KeptSession:
    """Begin a session."""
    return asked.bench.sessions.create(body.title)


def import_session(asked: Asked, raw: bytes) -> KeptSession:
    """Keep an exported session as the user's own, under new ids. The body is what the export gave."""
    return asked.bench.sessions.import_(raw)


def current_session(asked: Asked) -> Session:
    """The conversation of what was asked without naming a session."""
    return asked.bench.session()


def session(asked: Asked, session_id: str) -> KeptSession:
    """A session's line in the list."""
    return asked.bench.sessions.get(session_id)


def session_turns(asked: Asked, session_id: str) -> Session:
    """A session with its turns, oldest first."""
    return asked.bench.session(session_id)


def rename_session(asked: Asked, session_id: str, body: SessionBody) -> KeptSession:
    """Give it another title."""
    return asked.bench.sessions.rename(session_id, body.title)


def delete_session(asked: Asked, session_id: str) -> DeletedSession:
    """Forget it with all its runs and end its sandbox; refused while a run goes on. Says where its files still are."""
    return asked.bench.sessions.delete(session_id)


def archive_session(asked: Asked, session_id: str) -> KeptSession:
    """Leave it out of the list; nothing of it is lost."""
    return asked.bench.sessions.archive(session_id)


def restore_session(asked: Asked, session_id: str) -> KeptSession:
    """Back into the list."""
    return asked.bench.sessions.restore(session_id)


def resume_session(asked: Asked, session_id: str) -> Resumed:
    """Go on with it after a restart: what there is of it; what only its volume knows comes back without its turns."""
    return asked.bench.resume(session_id)


def session_stats(asked: Asked, session_id: str) -> SessionStats:
    """How many turns, how they ended, and what they cost together."""
    return asked.bench.sessions.stats(session_id)


def session_artifacts(asked: Asked, session_id: str) -> list[Artifact]:
    """The files that its runs wrote, newest first."""
    return asked.bench.sessions.artifacts(session_id)


def session_feedback(asked: Asked, session_id: str) -> list[Feedback]:
    """What was thought of its turns."""
    return asked.bench.sessions.feedback(session_id)


def export_session(asked: Asked, session_id: str) -> Raw:
    """The session with its turns, their feedback and their runs' events as one versioned JSON object."""
    text = asked.bench.sessions.export(session_id)
    return Raw([text.encode("utf-8", "replace")], "application/json", f"{session_id}.json")


ROUTES = (
    Endpoint("GET", "/session", current_session),
    Endpoint("GET", "/sessions", list_sessions),
    Endpoint("POST", "/sessions", create_session, status=201),
    Endpoint("POST", "/sessions/import", import_session, status=201),
    Endpoint("GET", "/sessions/{session_id}", session),
    Endpoint("GET", "/sessions/{session_id}/turns", session_turns),
    Endpoint("PATCH", "/sessions/{session_id}", rename_session),
    Endpoint("DELETE", "/sessions/{session_id}", delete_session),
    Endpoint("POST", "/sessions/{session_id}/archive", archive_session),
    Endpoint("POST", "/sessions/{session_id}/restore", restore_session),
    Endpoint("POST", "/sessions/{session_id}/resume", resume_session),
    Endpoint("GET", "/sessions/{session_id}/stats", session_stats),
    Endpoint("GET", "/sessions/{session_id}/artifacts", session_artifacts),
    Endpoint("GET", "/sessions/{session_id}/feedback", session_feedback),
    Endpoint("GET", "/sessions/{session_id}/export", export_session),
)
