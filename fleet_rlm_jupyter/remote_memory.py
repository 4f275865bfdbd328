"""The memory of a user that a Jupyter server holds."""

from __future__ import annotations

from pydantic import BaseModel

from fleet_rlm_jupyter.connection import Connection, quoted
from fleet_rlm_jupyter.domain.memory import MemoryItem, MemoryKind, MemoryState


class RemoteMemory:
    """A user's items of memory, as `Workbench.memory`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self, state: MemoryState | None = None, session_id: str | None = None, limit: int = 1000
    ) -> list[MemoryItem]:
        return self._connection.get("/memory", _Items, state=state, session_id=session_id, limit=limit).items

    def get(self, memory_id: str) -> MemoryItem:
        return self._connection.get(_path(memory_id), MemoryItem)

    def add(self, text: str, kind: MemoryKind = "note", session_id: str | None = None) -> MemoryItem:
        body = {"text": text, "kind": kind, "session_id": session_id}
        return self._connection.ask("POST", "/memory", MemoryItem, body)

    def approve(self, memory_id: str) -> MemoryItem:
        return self._connection.ask("POST", f"{_path(memory_id)}/approve", MemoryItem, is_safe=True)

    def reject(self, memory_id: str) -> MemoryItem:
        return self._connection.ask("POST", f"{_path(memory_id)}/reject", MemoryItem, is_safe=True)

    def delete(self, memory_id: str) -> None:
        self._connection.ask("DELETE", _path(memory_id), type(None))


class _Items(BaseModel):
    items: list[MemoryItem]


def _path(memory_id: str) -> str:
    return f"/memory/{quoted(memory_id)}"
