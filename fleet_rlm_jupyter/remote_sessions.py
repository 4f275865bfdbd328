"""The sessions of a user on a Jupyter server."""

from __future__ import annotations

from pydantic import BaseModel

from fleet_rlm_jupyter.connection import Connection, quoted
from fleet_rlm_jupyter.domain.session import Artifact, DeletedSession, Feedback, KeptSession, Session, SessionStats


class _SessionsPage(BaseModel):
    sessions: list[KeptSession]
    cursor: str | None


class RemoteSessions:
    """A user's conversations, as `Workbench.sessions`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self, search: str = "", is_archived: bool = False, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[KeptSession], str | None]:
        query = {"search": search, "archived": is_archived, "limit": limit, "cursor": cursor}
        page = self._connection.get("/sessions", _SessionsPage, **query)
        return page.sessions, page.cursor

    def get(self, session_id: str) -> KeptSession:
        return self._connection.get(f"/sessions/{quoted(session_id)}", KeptSession)

    def create(self, title: str = "") -> KeptSession:
        return self._connection.ask("POST", "/sessions", KeptSession, {"title": title})

    def rename(self, session_id: str, title: str) -> KeptSession:
        return self._connection.ask("PATCH", f"/sessions/{quoted(session_id)}", KeptSession, {"title": title})

    def archive(self, session_id: str) -> KeptSession:
        return self._connection.ask("POST", f"/sessions/{quoted(session_id)}/archive", KeptSession, is_safe=True)

    def restore(self, session_id: str) -> KeptSession:
        return self._connection.ask("POST", f"/sessions/{quoted(session_id)}/restore", KeptSession, is_safe=True)

    def delete(self, session_id: str) -> DeletedSession:
        return self._connection.ask("DELETE", f"/sessions/{quoted(session_id)}", DeletedSession)

    def transcript(self, session_id: str) -> Session:
        return self._connection.get(f"/sessions/{quoted(session_id)}/turns", Session)

    def stats(self, session_id: str) -> SessionStats:
        return self._connection.get(f"/sessions/{quoted(session_id)}/stats", SessionStats)

    def artifacts(self, session_id: str) -> list[Artifact]:
        return self._connection.get(f"/sessions/{quoted(session_id)}/artifacts", list[Artifact])

    def feedback(self, session_id: str) -> list[Feedback]:
        return self._connection.get(f"/sessions/{quoted(session_id)}/feedback", list[Feedback])

    def export(self, session_id: str) -> str:
        return "\n".join(self._connection.lines(f"/sessions/{quoted(session_id)}/export"))

    def import_(self, text: str | bytes) -> KeptSession:
        raw = text.encode("utf-8") if isinstance(text, str) else text
        headers = {"Content-Type": "application/octet-stream"}
        return KeptSession.model_validate_json(self._connection.send("POST", "/sessions/import", raw, headers, {}))
